"""The letter that an answer to a multiple-choice question names.

The tutorial's letter is the first after the very words of its prompt, thoughts included (NeMo 8cfedd7
tutorials/llm/reasoning/evaluation/evaluate_responses.py:23-31); beside it stands one that reads what people read.
"""

import re
import string

from sft.eval.metrics import answer_part

# --- multiple choice ---------------------------------------------------------------------------------------------

PUBLISHED = re.compile(r"The final answer is ([A-D])")

# What may stand around a letter: quotes, emphasis, brackets, TeX; all of it is taken at once (*+), so that an answer of
# ten thousand stars takes no longer than its length.
AROUND = (
    r"(?:[\s*_`\"'\u201c\u201d\u2018\u2019(\[{$~#>]|\\[()\[\],;]"
    r"|\\(?:text|textbf|textit|mathrm|mathbf|boldsymbol|rm|bf)\b)*+"
)
APART = r"[\w'\u2019-]"  # beside a letter it makes a word of it: D-glucose, D'Alembert
LETTER = (
    rf"(?:([A-D])(?!{APART})|([a-d])(?!{APART})(?!\s+\w))"  # "a" before a word is the article
    r"(?!\s*(?:/|,|&|\bor\b|\band\b)\s*[(\[*]*+[A-Da-d]\b)"  # one of several is none
)
WORDS = (
    "definitely|clearly|certainly|therefore|thus|hence|indeed|simply|probably|likely|most|option|choice|letter|answer"
    "|the|then"
)
FILLER = rf"(?:(?:{WORDS})\b[,:]?{AROUND})*+"
BOXED = rf"\\(?:boxed|fbox)\s*\{{{AROUND}"
# "answer" and the verb or mark that says which; quotes or emphasis may stand before the mark.
SAID = (
    r"(?i:\b(?:answer|option|choice)\b(?:\s+(?:letter|choice|option|here)\b)?[\s*_`\"'\u201d\u2019)]*+"
    rf"(?:\b(?:is|be|are)\b(?!\s+not\b)[\s*_`]*+[:=]?|[:=]|(?<=\s)[-\u2013\u2014]\s){AROUND}{FILLER})"
)
STATED = re.compile(rf"(?:{BOXED}|{SAID}(?:{BOXED})?){LETTER}")
CORRECT = re.compile(rf"(?<!{APART})([A-D])[)\]*_]*+\.?\s+(?i:is|must\s+be)\s+(?:the\s+)?(?i:correct|right|best)\b")
ALONE = re.compile(r"[\W_]*([A-Da-d])[\W_]*")
HEADED = re.compile(r"[\W_]*([A-D])[*_]*[.):](?:\s.*)?")


def published_letter(text: str) -> str | None:
    """The tutorial's letter: the first one after the words of its prompt, wherever they stand."""
    found = PUBLISHED.search(text)
    return found[1] if found else None


def letter(text: str) -> str | None:
    """The choice that an answer ends with: A, B, C or D; None when it names none, or was cut off while thinking.

    Only what comes after the last thought counts. There the last "answer is ..." or \\boxed{...} wins, so a correction
    of itself does; else the last "B is correct"; else an answer that is a letter, alone on its last line or at the
    head of its only one.
    """
    last = answer_part(text)
    if last is None:
        return None
    for pattern in (STATED, CORRECT):
        found = [match for match in pattern.finditer(last)]
        if found:
            return next(group for group in found[-1].groups() if group).upper()
    lines = [line for line in last.splitlines() if line.strip()]
    if not lines:
        return None
    match = ALONE.fullmatch(lines[-1]) or (HEADED.fullmatch(lines[0]) if len(lines) == 1 else None)
    return match[1].upper() if match else None


# --- lm-evaluation-harness ---------------------------------------------------------------------------------------

# EleutherAI/lm-evaluation-harness 4e7e0d4 lm_eval/tasks/mmlu/flan_cot_zeroshot/_mmlu_flan_cot_zeroshot_template_yaml,
# filter strict-match. That of gpqa (gpqa/cot_zeroshot/_gpqa_cot_zeroshot_yaml) is its first part alone, which the
# tutorial's "The final answer is" never meets. (?=.) wants one more character: a letter that ends the text is not seen.
HARNESS = re.compile(
    r"((?<=The answer is )(.*)(?=.)|(?<=answer is )(.*)(?=.)|(?<=The answer: )(.*)(?=.)"
    r"|(?<=The final answer: )(.*)(?=.))"
)
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def harness_letter(text: str) -> str | None:
    """The letter that lm-evaluation-harness takes from an answer: the first match, without case and punctuation
    (exact_match with ignore_case and ignore_punctuation). What is left must be a letter and nothing more."""
    found = HARNESS.search(text)
    bare = found[0].strip().translate(NO_PUNCTUATION).upper() if found else ""
    return bare if bare in ("A", "B", "C", "D") else None
