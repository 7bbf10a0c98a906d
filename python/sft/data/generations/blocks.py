"""What the processes hand each other: blocks of rows, and what is known of each row."""

import re
import struct
from pathlib import Path
from typing import NamedTuple

from sft.data.generations.options import Options, Prompt, Row

BLOCK_BYTES = 4 << 20  # of text that a worker takes at a time


class Template(NamedTuple):
    """A tokenizer's chat template, None if it has none, and its special tokens."""

    text: str | None
    special: dict[str, str]


class Job(NamedTuple):
    """What there is to do: the options, and what they name, read and checked."""

    options: Options
    prompt: Prompt | None
    contaminated: set[str]
    code: str | None  # what a piece of code begins with
    template: Template | None = None


# --- first pass: read, filter, spool -------------------------------------------------------------------------------


class Block(NamedTuple):
    """Whole lines of an input file, for a worker."""

    number: int
    path: Path
    graded: bool  # whether it is one of --input-files
    offset: int
    length: int  # bytes
    line: int  # number of the first


# One row: hashes of what it was, of its problem, of what it has become; where it is in which spool file; which filters
# changed it (bits); the filter that dropped it, from 1; whether it has code.
INDEX = struct.Struct("<16s16s16sQIIIBB")
INDEX_FIELDS = [("source", "<u8", 2), ("problem", "<u8", 2), ("result", "<u8", 2), ("offset", "<u8"), ("length", "<u4")]
INDEX_FIELDS += [("file", "<u4"), ("changed", "<u4"), ("dropped", "u1"), ("code", "u1")]


# What judges write around the two words that they are asked for: emphasis, headings, quotes, either spelling.
MARKS = r"[\s*_`#\"'\u201c\u201d(\[]*"
VERDICT = re.compile(rf"judge?ment{MARKS}[:\uff1a]{MARKS}(?:(yes|no)\b(?!\s*(?:/|\bor\b)\s*(?:yes|no)\b))?", re.I)


def number_or_text(row: Row, key: str) -> str:
    """A value that may be written as either (preprocessing.py writes str() of whatever it is). Raises ValueError."""
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"field {key!r} is {type(value).__name__}, neither text nor number")
    return str(value)


def text_of(row: Row, key: str) -> str:
    if not isinstance(row.get(key), str):
        raise ValueError(f"no text in field {key!r}")
    return row[key]
