"""Generate a bench's input: parquet in OpenMathReasoning's schema, with lengths and text as long solutions have them.

    python tests/bench/generate.py DIR 19400

Splits, files, row groups, sources and pass rates are in about the published shares; a solution has a median of 13 KB.
"""

import argparse
import random
import shutil
import sys
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "python"))

from sft.data.tiny import COLUMNS
from sft.lib.errors import run
from sft.lib.progress import log

SHARES = {"cot": 0.583, "tir": 0.313, "genselect": 0.104}  # of 5.5 million rows
SOURCES = {
    "aops_c4_high_school_math": 31,
    "aops_c5_contests_amp_programs": 8,
    "aops_c6_high_school_olympiads": 46,
    "aops_c7_college_math": 15,
}
ROWS_A_FILE, ROWS_A_GROUP = 10_000, 1000
MEDIAN, SIGMA = 12_500, 0.45  # characters of a solution, and the spread of their logarithm

COMMON = """
the of is so we have that and let then to a in if for this therefore wait but x y n which gives where are be
can by with as from not at each one two all since let's check again maybe need okay hmm now first also just
because it I that's would there or no think must get other when right another only how any could same both
three more given total here it's into than these makes sense what actually using will do should time
"""
STEMS = """
number equation solution problem answer value term factor sum product integer prime divisor remainder square
root triangle circle angle point line length area side vertex center radius function sequence series limit
polynomial degree coefficient variable constant condition case step method approach formula theorem proof
result expression fraction denominator numerator exponent power base digit permutation combination probability
count maximum minimum inequality modulo congruence matrix vector determinant derivative integral
interval range domain graph plane coordinate distance symmetry ratio difference multiple possibility choice
arrangement pattern property definition consider suppose compute calculate simplify substitute expand rewrite
solve find show prove verify determine express assume conclude notice
"""
PREFIXES = ("un", "re", "non", "pre", "sub", "co", "inter", "multi", "semi", "anti", "over", "counter", "pseudo", "bi")
ENDINGS = ("", "s", "ed", "ing", "al", "ly", "able", "ness", "ity", "ize", "ized", "er", "ation", "ish", "wise")
WORDS = 20_000  # different ones, most of them rare, as in real text: a cache of them has its misses
PIECES = [
    *(
        "\\frac{{{a}}}{{{b}}}",
        "\\( x^{a} + {b}x = {c} \\)",
        "${a} \\cdot {b} = {c}$",
        "\\sqrt{{{a}}}",
        "\\boxed{{{a}}}",
    ),
    *("\\[ \\frac{{x}}{{{a}}} \\leq {b} \\]", "f({a})", "({a}, {b})", "x = {a}", "{a}", "n = {c}"),
    *(
        "\n\n",
        "\n\n",
        "\n",
        "\n",
        '"{a}"',
        '"x"',
        "{a} + {b} = {c}",
        "\\( n \\equiv {a} \\pmod{{{b}}} \\)",
        "x_{a}",
        "- {b}",
    ),
]
RARE = ("√{a}", "{a} ≤ {b}", "π/{a}", "{a}°", "née", "½")
CALL = "\n<tool_call>\nprint({a} + {b})\n</tool_call>\n```output\n{c}\n```\n"
LEFT = "```system\nRemaining code executions: {n}. You will not be able to call code when you run out.\n```\n"
NONE = "```system\nYou have run out of code executions! You can no longer write or execute code.\n```\n"


class Text:
    """Paragraphs to compose solutions of: words in the frequencies of Zipf's law, numbers, LaTeX, line breaks."""

    def __init__(self, seed: int):
        self.draw = random.Random(seed)
        stems = STEMS.split()
        rare = [f"{p}{s}{e}" for p in PREFIXES for s in stems for e in ENDINGS]
        inflected = [stem + ending for ending in ENDINGS for stem in stems]  # the stems themselves first
        known = [*COMMON.split(), *inflected]
        self.words = known + self.draw.sample(rare, WORDS - len(known))
        self.weights = list(accumulate((n + 5) ** -1.2 for n in range(len(self.words))))
        self.plain = [self.paragraph(PIECES) for _ in range(12_000)]
        self.rare = [self.paragraph((*PIECES, *RARE)) for _ in range(3_000)]

    def numbers(self) -> dict[str, int]:
        return {"a": self.draw.randrange(100), "b": self.draw.randrange(1000), "c": self.draw.randrange(10_000)}

    def paragraph(self, pieces: tuple[str, ...] | list[str]) -> str:
        parts = []
        for _ in range(self.draw.randint(20, 80)):
            kind = self.draw.random()
            if kind < 0.8:
                word = self.draw.choices(self.words, cum_weights=self.weights)[0]
                parts.append(word.capitalize() if kind < 0.05 else word + "," if kind < 0.12 else word)
            else:
                parts.append(self.draw.choice(pieces).format(**self.numbers()))
        return " ".join(parts) + ".\n\n"

    def solution(self, split: str) -> str:
        size, length = self.draw.lognormvariate(0, SIGMA) * MEDIAN, 0
        pool = self.rare if self.draw.random() < 0.3 else self.plain  # 30% of rows hold more than ASCII
        parts = ["<think>\n"]
        while length < size:
            parts.append(self.draw.choice(self.plain) if len(parts) % 4 else self.draw.choice(pool))
            length += len(parts[-1])
        if split == "tir":
            left = self.draw.randrange(9)
            for n in range(left, -1, -1):
                say = LEFT.format(n=n) if n else NONE
                parts.insert(self.draw.randrange(1, len(parts)), CALL.format(**self.numbers()) + say)
            calls = [i for i, part in enumerate(parts) if "<tool_call>" in part]
            for i, n in zip(calls, range(left, -1, -1), strict=True):  # counting down in the order of the text
                parts[i] = CALL.format(**self.numbers()) + (LEFT.format(n=n) if n else NONE)
        return "".join(parts)

    def rows(self, split: str, count: int) -> Iterator[dict[str, Any]]:
        for _ in range(count):
            known = self.draw.random() >= 0.35
            row = {
                "expected_answer": str(self.draw.randrange(1000)),
                "problem_type": "has_answer_extracted",
                "problem_source": self.draw.choices(list(SOURCES), list(SOURCES.values()))[0],
                "generation_model": "none",
                "pass_rate_72b_tir": str(self.draw.randrange(33) / 32) if known else "n/a",
                "problem": self.draw.choice(self.plain),
                "generated_solution": self.solution(split),
                "inference_mode": split,
                "used_in_kaggle": self.draw.random() < 0.5,
            }
            yield {column: row[column] for column in COLUMNS}


def generate(folder: Path, rows: int, seed: int = 0) -> None:
    """Write about `rows` rows below `folder`, unless they are there; a row group in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if folder.is_dir():
        return
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    text = Text(seed)
    for split, share in SHARES.items():
        left = round(rows * share)
        files = -(-left // ROWS_A_FILE)
        for n in range(files):
            count = left // (files - n)
            left -= count
            stream, writer = text.rows(split, count), None
            for first in range(0, count, ROWS_A_GROUP):
                group = [row for _, row in zip(range(min(ROWS_A_GROUP, count - first)), stream, strict=False)]
                table = pa.Table.from_pylist(group)
                if writer is None:
                    writer = pq.ParquetWriter(part / f"{split}-{n:05d}-of-{files:05d}.parquet", table.schema)
                writer.write_table(table)
            if writer:
                writer.close()
    part.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    generate(args.folder, args.rows, args.seed)
    log(f"bench: {args.rows:,} rows in {args.folder}")


if __name__ == "__main__":
    run(main)
