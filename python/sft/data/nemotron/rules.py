"""The Llama-Nemotron data's rows: the tutorial's filters in its order, the rendering and the counts of tokens.

Rules: NeMo Curator 1e2e427 tutorials/text/llama-nemotron-data-curation, main.py:85-190 for their order and
filters/{heuristic,model}_filters.py for each. Two variants differ:

                     corrected                                  published
used_in_training     a word of the string or of a list's        the name occurs in the string
                     element is the name
\\boxed              in a message of the input, not in the      never drops a row: the input is a list, in which
                     output                                     pandas finds no text (heuristic_filters.py:60-67)
tokens of a row      input and output tokenized apart, as       the whole rendering, with the special tokens (a second
                     they are trained                           BOS) that encoding adds (model_filters.py:150-178)
completion tokens    of the output                              of a rendering of the answer alone, with the template's
                     (completion_token_count)                   system block and header and a second BOS (234-254)

Here any other value of `reasoning` than "on" and "off" is a fault of the data, and so is a field that is not there.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.data.nemotron.language import Language
from sft.data.nemotron.template import Rules, Template, Tokens
from sft.lib.errors import Failure
from sft.lib.files import read_jsonl, sha256
from sft.rows.chat import Message

MODES = ("on", "off")
FIELDS = ("input", "output", "reasoning", "system_prompt", "used_in_training")
# By which a row goes, in the order in which they are asked. The last two are not the tutorial's.
FILTERS = (
    "used_in_training",
    "empty_think",
    "boxed",
    "unclosed_think",
    "think_tags",
    "english",
    "total_tokens",
    "completion_tokens",
    "decontamination",
    "duplicate",
)
OPEN, CLOSE = "<think>", "</think>"
EMPTY = (f"{OPEN}\n\n{CLOSE}", f"{OPEN}\n{CLOSE}", f"{OPEN}{CLOSE}")  # heuristic_filters.py:46-54
GRAM = 13  # words in a row that say that a text was seen
WORD = re.compile(r"[^\W_]+")


@dataclass
class Row:
    """A row of the data set, checked: messages without the answer, `used` as written."""

    mode: str
    messages: list[Message]
    output: str
    used: Sequence[str]
    listed: bool


def text(name: str, value: Any) -> str:
    """Raises ValueError naming a field that is missing, null or not text."""
    if not isinstance(value, str):
        what = "not there" if value is ... else "null" if value is None else type(value).__name__
        raise ValueError(f"field {name!r} is {what}, no text")
    return value


def read_row(turns: Any, output: Any, reasoning: Any, system: Any, used: Any) -> Row:
    """A row of its FIELDS; ... stands for one that is not there. Raises ValueError naming what is wrong."""
    if text("reasoning", reasoning) not in MODES:
        raise ValueError(f"reasoning is {reasoning[:40]!r}, neither 'on' nor 'off'")
    if turns is ... or not isinstance(turns, list) or not turns:
        raise ValueError(f"field 'input' is {'not there' if turns is ... else 'no list of messages'}")
    messages = [{"role": "system", "content": text("system_prompt", system)}]
    for turn in turns:
        if not isinstance(turn, dict):
            raise ValueError("field 'input' holds something else than messages")
        messages.append({name: text(f"input.{name}", turn.get(name, ...)) for name in ("role", "content")})
    listed = isinstance(used, list)
    if used is ...:
        raise ValueError("field 'used_in_training' is not there")
    names = used if listed else [] if used is None else [text("used_in_training", used)]
    return Row(reasoning, messages, text("output", output), [text("used_in_training", name) for name in names], listed)


def used_in(name: str, row: Row, published: bool) -> bool:
    """Whether a row was used in the training of the model `name`. heuristic_filters.py:34-42.

    The published filter looks for the name anywhere in the string, and ends on a list; here it looks in each element.
    """
    name = name.lower()
    if published:
        return any(name in value.lower() for value in row.used)
    return any(name == value.strip().lower() or name in WORD.findall(value.lower()) for value in row.used)


def by_text(rules: Rules, row: Row) -> str | None:
    """The first filter by which a row goes, of those that look at its fields alone."""
    output = row.output
    if not used_in(rules.used_in, row, rules.published):
        return "used_in_training"
    if any(tags in output for tags in EMPTY):
        return "empty_think"
    if not rules.published and "\\boxed" not in output and any("\\boxed" in m["content"] for m in row.messages[1:]):
        return "boxed"
    opened, closed = OPEN in output, CLOSE in output
    if opened and not closed:
        return "unclosed_think"
    if (opened and closed) if row.mode == "on" else not (opened or closed):
        return None
    return "think_tags"


# --- what was seen -----------------------------------------------------------------------------------------------


def words_of(content: str) -> list[str]:
    """Its words and numbers in lower case, without everything between them."""
    return WORD.findall(content.casefold())


def grams(words: list[str]) -> Iterable[str]:
    return (" ".join(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1))


class Seen:
    """The questions of evaluation sets. A message was seen that equals one of them, or has 13 words in a row of one.

    Both are compared by their words in lower case. A question of fewer words is found only when it is all of the
    message: "What is force?" is in many.
    """

    def __init__(self, files: Sequence[Path]):
        self.whole: set[str] = set()
        self.grams: set[str] = set()
        for path in files:
            for number, row in enumerate(read_jsonl(path), 1):
                question = row.get("Question", row.get("problem"))
                if not isinstance(question, str):
                    raise Failure(f"{path}:{number}: neither Question nor problem is text; fix or remove it")
                words = words_of(question)
                self.whole.add(" ".join(words))
                self.grams.update(grams(words))

    def has(self, messages: list[Message]) -> bool:
        """Whether one of the user's messages was seen."""
        for message in messages:
            if message["role"] == "user":
                words = words_of(message["content"])
                if " ".join(words) in self.whole or any(gram in self.grams for gram in grams(words)):
                    return True
        return False


# --- a batch of rows ---------------------------------------------------------------------------------------------


@dataclass
class Kept:
    """A row that stays, and what the order of rows is made of."""

    number: int
    messages: list[Message]  # with the answer
    prompt: str
    completion: str
    total: int
    completion_tokens: int


@dataclass
class Filters:
    """All filters but the last, for batches of rows; each of them sees only what those before it left."""

    rules: Rules
    template: Template
    tokens: Tokens
    language: Language
    seen: Seen | None

    def __call__(
        self, rows: Sequence[tuple[int, Row]], dropped: Callable[[Row, str], None]
    ) -> Iterable[tuple[Row, Kept]]:
        """The rows that stay, in order. Raises BadRow naming the number of a row that cannot be rendered."""
        left: list[tuple[int, Row, str, str]] = []
        for number, row in rows:
            if why := by_text(self.rules, row):
                dropped(row, why)
                continue
            try:
                left.append((number, row, *self.template.split(row.messages, row.output)))
                (left[-1][2] + left[-1][3]).encode()  # a lone surrogate is not text
            except ValueError as error:
                raise BadRow(number, str(error)) from None
        if not left:
            return
        english = self.language.english([prompt + completion for _, _, prompt, completion in left])
        for (number, row, prompt, completion), good in zip(left, english, strict=True):
            if not good:
                dropped(row, "english")
                continue
            try:
                why, total, tokens = self.tokens.limits(self.rules, prompt, completion, row.output)
            except ValueError as error:
                raise BadRow(number, str(error)) from None
            if not why and self.seen and self.seen.has(row.messages):
                why = "decontamination"
            if why:
                dropped(row, why)
                continue
            messages = [*row.messages, {"role": "assistant", "content": row.output}]
            yield row, Kept(number, messages, prompt, completion, total, tokens)


class BadRow(ValueError):
    """A row that cannot be used, by its number as `batches` counts."""

    def __init__(self, number: int, why: str):
        super().__init__(why)
        self.number = number


def load_filters(rules: Rules, tokenizer: Path, language: Path, evaluation: Sequence[Path]) -> Filters:
    """Raises Failure for a tokenizer without a template, a model that is not fastText's, an unreadable set."""
    from sft.rows.tokens import TokenCounter

    template = Template(tokenizer)
    tokens = Tokens(TokenCounter(tokenizer), template, rules.published)
    return Filters(rules, template, tokens, Language(language), Seen(evaluation) if evaluation else None)


def identities(filters: Filters, tokenizer: Path, language: Path, evaluation: Sequence[Path]) -> dict[str, str]:
    """sha256 of what the filters were made of, by name."""
    return {
        "tokenizer.json": sha256(tokenizer / "tokenizer.json"),
        "chat_template": filters.template.sha256,
        "language_model": sha256(language),
    } | {f"evaluation {path.parent.name}": sha256(path) for path in evaluation}
