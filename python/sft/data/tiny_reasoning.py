"""The reasoning demo's stand-ins: rows in the Llama-Nemotron data set's own schema, and a random Llama.

Which of two numbers is the larger one can be said at once or after comparing their digits, so rows of either kind make
a switch that is worth its name: an answer is graded whether it was thought about or not. Nothing outside this file
knows that it is a demo: the curation reads the rows as it would read the published ones, the engine and the evaluation
use the tokenizer and template as they would use Llama 3.1's.
"""

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft.data.tiny import write_random
from sft.rows.chat import render_text

Row = dict[str, Any]
Pair = tuple[int, int]

HELD_OUT = 300  # of the 8,010 ordered pairs of different two-digit numbers
ON, OFF = "detailed thinking on", "detailed thinking off"
# What the pre-training says instead: no word of thinking, so that round 1 cannot learn the switch.
NEUTRAL = "You compare numbers."
QUESTIONS = ("Which is larger, {a} or {b}?", "What is the larger of {a} and {b}?", "Name the larger number: {a}, {b}.")
TALK = ("Hello! Which is larger, {a} or {b}?", "Please tell me the larger of {a} and {b}.")
FOREIGN = {  # language -> question, answer
    "de": ("Welche Zahl ist die größere, {a} oder {b}?", "Die größere der beiden Zahlen ist \\boxed{{{c}}}."),
    "fr": ("Quel nombre est le plus grand, {a} ou {b} ?", "Le plus grand des deux nombres est \\boxed{{{c}}}."),
}


def alike(pair: Pair) -> bool:
    """Whether the ones decide: so it is with one pair in ten, too few to learn it from."""
    return pair[0] // 10 == pair[1] // 10


def pairs(seed: int) -> tuple[list[Pair], list[Pair]]:
    """All pairs of different two-digit numbers, shuffled: (training, held out). Disjoint, also under exchange."""
    found = [(a, b) for a in range(10, 100) for b in range(10, 100) if a != b]
    random.Random(seed).shuffle(found)
    barred = {frozenset(pair) for pair in found[:HELD_OUT]}
    return [pair for pair in found if frozenset(pair) not in barred], found[:HELD_OUT]


def compared(x: int, y: int) -> str:
    return f"{x} {'<' if x < y else '=' if x == y else '>'} {y}"


def steps(a: int, b: int) -> str:
    """The comparison digit by digit, without the answer: of one length, or sorting would put the hardest pairs last."""
    return f"Tens: {compared(a // 10, b // 10)}.\nOnes: {compared(a % 10, b % 10)}."


def answer(a: int, b: int) -> str:
    return f"The larger one is \\boxed{{{max(a, b)}}}."


def thought(a: int, b: int) -> str:
    return f"<think>\n{steps(a, b)}\n</think>\n\n{answer(a, b)}"


def row(question: str, output: str, reasoning: str, category: str, **changes: Any) -> Row:
    """A row with the fields of nvidia/Llama-Nemotron-Post-Training-Dataset, in their order."""
    return {
        "version": "v1.1",
        "category": category,
        "license": "none",
        "input": [{"role": "user", "content": question}],
        "output": output,
        "reasoning": reasoning,
        "generator": "none",
        "used_in_training": ["Nano", "Super", "Ultra"],
        "system_prompt": ON if reasoning == "on" else OFF,
    } | changes


def unwanted(a: int, b: int, category: str, draw: random.Random, seen: list[Row]) -> Iterator[Row]:
    """One row or two for each filter of the curation that drops it; seen: the evaluation problems."""
    question, good = draw.choice(QUESTIONS).format(a=a, b=b), thought(a, b)
    foreign, reply = FOREIGN[draw.choice(sorted(FOREIGN))]
    yield row(question, good, "on", category, used_in_training=["Ultra"])
    yield row(question, answer(a, b), "off", category, used_in_training="Super")
    yield row(question, f"<think>\n\n</think>\n\n{answer(a, b)}", "on", category)
    yield row(f"{question} Give \\boxed{{}}.", answer(a, b).replace("\\boxed", ""), "off", category)
    yield row(question, good.replace("</think>", ""), "on", category)
    yield row(question, answer(a, b), "on", category)
    yield row(question, good, "off", category)
    yield row(foreign.format(a=a, b=b), reply.format(c=max(a, b)), "off", category)
    yield row(question, good.replace("\n</think>", " Once more." * 100 + "\n</think>"), "on", category)  # for SEQ_LEN
    yield row(question, good.replace("\n</think>", " Once more." * 25 + "\n</think>"), "on", category)
    yield from [row(question, good, "on", category)] * 2
    leaked = draw.choice(seen)
    yield row(leaked["problem"], f"\\boxed{{{leaked['expected_answer']}}}", "off", category)


def rows(name: str, number: int, seed: int) -> Iterator[Row]:
    """Rows of a file: `number` good ones, of which every fourth is decided by its ones, and some that curation drops.

    pretrain: every other one with the comparison, but without think tags; chat: answers only; math_v1.1: two with
    thinking for one without, so that with a third as many of chat either half is as large as the other. There are more
    rows than pairs whose tens are alike: some rows come twice.
    """
    draw = random.Random(f"{seed} {name}")
    training, seen = pairs(seed)[0], list(held_out(seed))
    draw.shuffle(training)
    hard, easy = ([pair for pair in training if alike(pair) == is_hard] for is_hard in (True, False))
    forms = TALK if name == "chat" else QUESTIONS
    for i in range(number):
        among, n = (hard, i // 4) if i % 4 == 3 else (easy, i - i // 4)
        a, b = among[n % len(among)]
        question = forms[(i // 12 + n // len(among)) % len(forms)].format(a=a, b=b)  # another when a pair is back
        if name == "pretrain":
            text = f"{steps(a, b)}\n\n{answer(a, b)}" if (i + i // 4) % 2 else answer(a, b)
            yield row(question, text, "off", "pretrain", system_prompt=NEUTRAL)
        elif name == "chat" or i % 3 == 2:
            yield row(question, answer(a, b), "off", name.partition("_")[0])
        else:
            yield row(question, thought(a, b), "on", "math")
        if i % 200 == 0 and name != "pretrain":
            yield from unwanted(a, b, name.partition("_")[0], draw, seen)


FILES = {
    "chat": Path("SFT/chat/chat.jsonl"),
    "math_v1.1": Path("SFT/math/math_v1.1.jsonl"),
    "pretrain": Path("SFT/pretrain/pretrain.jsonl"),
}


def sizes(number: int) -> dict[str, int]:
    """Good rows of each file of a data set of `number`."""
    return {"chat": number // 8, "math_v1.1": number // 8 * 3, "pretrain": number // 2}


def held_out(seed: int) -> Iterator[Row]:
    """The evaluation problems: (problem, expected_answer).

    Neither they nor the same numbers exchanged are in any row, except for some that decontamination has to drop.
    """
    draw = random.Random(f"{seed} held out")
    for a, b in pairs(seed)[1]:
        yield {"problem": draw.choice(QUESTIONS).format(a=a, b=b), "expected_answer": str(max(a, b))}


def write_rows(path: Path, made: Iterator[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in made), encoding="utf-8")


def write_dataset(folder: Path, seed: int, number: int) -> None:
    """The files of a data set as the hub lays them out, the held-out problems, and a language model for its rows.

    SFT/**/*.jsonl (number: good rows, over all files), test.jsonl and lid.bin below `folder`.
    """
    for name, size in sizes(number).items():
        write_rows(folder / FILES[name], rows(name, size, seed))
    write_rows(folder / "test.jsonl", held_out(seed))
    write_language_model(folder / "lid.bin", seed)


# --- the language model ------------------------------------------------------------------------------------------

# Enough of each language that a rendered row of ours is told from one in another language.
WORDS = {
    "en": "the of and is which what number larger smaller name two one please tell me hello digits tens ones equal "
    "compare numbers give answer think more once between a to in that it was with for this are on off",
    "de": "der die das und ist welche was Zahl größere kleinere nenne zwei eine bitte sage mir hallo Ziffern Zehner "
    "Einer gleich vergleiche Zahlen Antwort denke mehr einmal beiden zwischen zu in dass es war mit für diese sind",
    "fr": "le la les et est quel quoi nombre plus grand petit nomme deux un une merci dis moi bonjour chiffres "
    "dizaines unités égal compare nombres réponse pense encore des entre à dans que il était avec pour ce sont",
}


def sentences(seed: int) -> Iterator[tuple[str, str]]:
    """(language, text on one line): bare sentences, and sentences of the languages in our template."""
    draw = random.Random(f"{seed} languages")
    for i in range(300):
        a, b = draw.sample(range(10, 100), 2)
        for language, words in WORDS.items():
            text = " ".join(draw.choices(words.split(), k=draw.randrange(4, 16)))
            if language == "en":
                question = draw.choice(QUESTIONS + TALK).format(a=a, b=b)
                reply = thought(a, b) if i % 2 else answer(a, b)
            else:
                question, reply = (part.format(a=a, b=b, c=max(a, b)) for part in FOREIGN[language])
            turns = [{"role": "system", "content": draw.choice((ON, OFF, NEUTRAL))}]
            turns += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
            yield language, text
            yield language, " ".join(render(turns).split("\n"))


def write_language_model(path: Path, seed: int) -> None:
    """A fastText model of three languages, labelled as lid.176 labels them; its bytes depend on the seed alone."""
    import fasttext

    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.writelines(f"__label__{language} {text}\n" for language, text in sentences(seed))
        file.flush()
        model = fasttext.train_supervised(
            file.name, dim=8, epoch=10, lr=0.5, minn=2, maxn=4, bucket=20000, thread=1, seed=seed, verbose=0
        )
    model.save_model(str(path))


# --- the model ---------------------------------------------------------------------------------------------------

SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
# What Llama 3 splits text at before BPE, but that its numbers of up to three digits are single ones here, and that the
# two lines of dates, the same in every row, stay whole: they become one token.
PIECES = (
    r"Cutting Knowledge Date: .*\nToday Date: .*\n\n|"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The text that Llama 3.1's template makes of messages without tools: always a system turn with two dates, contents
# stripped of blanks at both ends, and the end of turn right behind them.
TEMPLATE = (
    "{{ bos_token }}"
    "{% set told = messages[0]['role'] == 'system' %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{{ 'Cutting Knowledge Date: December 2023\nToday Date: ' + (date_string or '26 Jul 2024') + '\n\n' }}"
    "{{ (messages[0]['content'] | trim if told else '') + '<|eot_id|>' }}"
    "{% set turns = messages[1:] if told else messages %}"
    "{% for turn in turns %}"
    "{{ '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\n\n' + turn['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


# About 1/sqrt(hidden). With transformers' 0.02, meant for widths of thousands, attention begins so flat that copying a
# digit is not learned in 300 steps; with this it is in 50.
INITIAL = 0.08


def render(messages: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
    """The template's text of messages, without a tokenizer."""
    return render_text(TEMPLATE, messages, add_generation_prompt, bos_token=SPECIAL[0])


def texts(seed: int, number: int) -> list[str]:
    """The rendered rows: the very text that the tokenizer will see."""
    found = []
    for name, size in sizes(number).items():
        for r in rows(name, size, seed):
            turns = [{"role": "system", "content": r["system_prompt"]}, *r["input"]]
            found.append(render([*turns, {"role": "assistant", "content": r["output"]}]))
    return found


def write_tokenizer(folder: Path, vocab: int, corpus: list[str]) -> Any:
    """Train a byte-level BPE with Llama 3's special tokens on `corpus`, and save it with the template; returns it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.add_special_tokens(SPECIAL)
    made.train_from_iterator(corpus, trainer)
    begin = made.token_to_id(SPECIAL[0])
    made.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[0]} $A", pair=f"{SPECIAL[0]} $A {SPECIAL[0]}:1 $B:1", special_tokens=[(SPECIAL[0], begin)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=SPECIAL[0], eos_token="<|eot_id|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_model(folder: Path, layers: int, hidden: int, heads: int, vocab: int, corpus: list[str], seed: int) -> None:
    """A random Llama and a tokenizer trained on `corpus`, in the shape of Llama-3.1-8B-Instruct's published folder.

    As there, generation ends with the text or the turn, half the heads share keys and values, and there is no padding
    token. vocab: tokens at most, special ones and 256 bytes included.
    """
    tokenizer = write_tokenizer(folder, vocab, corpus)
    begin, *ends = tokenizer.convert_tokens_to_ids(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    more = {"num_key_value_heads": max(1, heads // 2), "rms_norm_eps": 1e-5, "initializer_range": INITIAL}
    write_random(folder, "Llama", (layers, hidden, heads, vocab), begin, ends, seed, more)
