"""Count tokens exactly, and faster than by encoding: what the filters, the report and sft-data ask.

A byte-level BPE cuts text into pieces by a regular expression and merges within each piece alone, so the number of
tokens of a text is the sum over its pieces. Of Qwen2.5's expression (tokenizer.json of Qwen/Qwen2.5-14B), and of
Llama 3's, which differs in taking digits by threes (tokenizer.json of meta-llama/Llama-3.1-8B), two things are used
here. A piece does not go on over a space, except some runs of blanks: elsewhere text can be cut before spaces, and
the words so found, of which a few thousand different ones make up most of any text, have their counts in a cache. And
a newline ends a piece wherever a non-blank follows it. What is not in the cache is encoded by the tokenizers library;
so are words that are not ASCII, lines with an added token, and texts of every other kind of tokenizer.
"""

import ctypes
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from sft.lib import files
from sft.lib.errors import Failure

QWEN2_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_PIECES = QWEN2_PIECES.replace(r"\p{N}|", r"\p{N}{1,3}|")
# Blanks for which the library's \s and Python's differ, and what else is not text: left to the library.
CONTROL = bytes({*range(0x20), 0x7F} - set(b"\t\n\r"))
# A newline before anything that is not blank ends a piece, whatever surrounds it.
CUT = re.compile(r"(?<=\n)(?=\S)")
# Runs of blanks with a piece that goes on over a space: nothing is cut at spaces where one of these is.
RUNS = ("   ", "  \n", "  \r", "  \t", "\t ", "\n \n", "\n \r", "\r \n", "\r \r")
PLAIN = (  # QWEN2_PIECES for plain text
    r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\na-zA-Z0-9]?[a-zA-Z]+|[0-9]| ?[^\sa-zA-Z0-9]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# By the tokenizer's expression and normalizer: what finds the pieces of plain text.
KINDS = {
    (QWEN2_PIECES, "NFC"): re.compile(PLAIN),
    (LLAMA3_PIECES, None): re.compile(PLAIN.replace("|[0-9]|", "|[0-9]{1,3}|")),
}
CACHED, LONGEST = 100_000, 32  # words, and the characters of one: at most some 12 MB
BLOCK = 4096  # characters, about, that are counted at a time


class Counts(dict[str, int]):
    """What `count` says of a text, remembered within limits."""

    def __init__(self, count: Callable[[str], int]):
        super().__init__()
        self.count = count

    def __missing__(self, text: str) -> int:
        found = self.count(text)
        if len(text) <= LONGEST and len(self) < CACHED:
            self[text] = found
        return found


def give_back() -> None:
    """Return freed memory to the system: parsing a tokenizer takes twice what is kept of it. glibc only."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


class TokenCounter:
    """Numbers of tokens under the tokenizer.json of a folder, without special tokens around the text."""

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer

        self.path = folder / "tokenizer.json"
        if not self.path.is_file():
            raise Failure(f"{folder} has no tokenizer.json; give the folder of a model or of its tokenizer")
        try:
            self.tokenizer = Tokenizer.from_file(str(self.path))
        except Exception as error:  # the library raises a bare Exception
            raise Failure(f"{self.path}: not a tokenizer ({str(error)[:80]}); fetch it again") from None
        give_back()
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        added = list(self.tokenizer.get_added_tokens_decoder().values())
        longest_first = sorted((token.content for token in added), key=len, reverse=True)  # as the library matches
        self.added = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.kind = self.find_kind()
        self.cut: Callable[[str], list[str]] = self.kind.findall if self.kind else list
        self.cached = self.kind is not None and not any(
            token.lstrip or token.rstrip or "\n" in token.content for token in added
        )
        # Whether an added token is one wherever it stands, so that what is before and after it is counted apart.
        self.apart = not any(token.single_word or token.normalized for token in added)
        self.around: int = self.tokenizer.num_special_tokens_to_add(False)
        self.first = {token.content[:1] for token in added}
        self.pieces = Counts(self.encode)
        self.starts = Counts(lambda word: self.word("", word))
        self.words = Counts(lambda word: self.word(" ", word))

    @property
    def sha256(self) -> str:
        return files.sha256(self.path)

    def find_kind(self) -> re.Pattern[str] | None:
        """What finds the pieces of plain text; None when text is not cut and merged as the cache supposes."""
        parts = (self.tokenizer.normalizer, self.tokenizer.pre_tokenizer)
        normalizer, pre = (json.loads(part.__getstate__()) if part else {} for part in parts)
        split, last = ([*pre.get("pretokenizers", []), {}, {}])[:2]
        model = self.tokenizer.model
        pattern = str((split.get("pattern") or {}).get("Regex"))
        kind = KINDS.get((pattern, normalizer.get("type")))
        known = (
            len(pre.get("pretokenizers", [])) == 2
            and (split.get("type"), split.get("behavior"), split.get("invert")) == ("Split", "Isolated", False)
            and (last.get("type"), last.get("add_prefix_space"), last.get("use_regex")) == ("ByteLevel", False, False)
            and type(model).__name__ == "BPE"
            and not (model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix)
        )
        return kind if known else None

    def encode(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def count(self, text: str) -> int:
        """The number of tokens of a text."""
        return sum(map(self.block, self.blocks(text))) if self.cached else self.encode(text)

    def rendered(self, text: str, most: int | None = None) -> int | None:
        """count(text) of text with added tokens in it, or None where it is above `most`, without counting on."""
        if not self.cached or not self.apart:
            found = self.encode(text)
            return None if most is not None and found > most else found
        parts = self.added.split(text)
        found = len(parts) - 1
        for part in parts:
            for block in self.blocks(part):
                found += self.block(block)
                if most is not None and found > most:
                    return None
        return None if most is not None and found > most else found

    def at_least(self, text: str, tokens: int) -> bool:
        """count(text) >= tokens, without counting further than that takes.

        A token has at least one byte of the text's NFC form, which for ASCII is the text.
        """
        if not self.cached:
            return self.encode(text) >= tokens
        if tokens <= 0:
            return True
        ascii_ = text.isascii()
        if ascii_ and len(text) < tokens:
            return False
        found, left = 0, len(text)
        for block in self.blocks(text):
            found, left = found + self.block(block), left - len(block)
            if found >= tokens:
                return True
            if ascii_ and found + left < tokens:
                return False
        return False

    def plain(self, text: str) -> bool:
        """Whether every blank in text is a space, a tab or a line end, and no added token is in it.

        What is printable to Python, which all other blanks are not, is none to the library either.
        """
        if text.isascii():
            raw = text.encode()
            if len(raw.translate(None, CONTROL)) != len(raw):
                return False
        elif not text.replace("\n", "").replace("\t", "").replace("\r", "").isprintable():
            return False
        return not any(first in text for first in self.first) or not self.added.search(text)

    def blocks(self, text: str) -> Iterator[str]:
        """The text in parts whose tokens add up; a line that is not plain is a part of its own."""
        if not self.plain(text):
            yield from CUT.split(text)
            return
        start = 0
        while start < len(text):
            cut = CUT.search(text, start + BLOCK)
            end = cut.start() if cut else len(text)
            yield text[start:end]
            start = end

    def word(self, before: str, word: str) -> int:
        """Tokens of plain text without spaces, after what stands before it."""
        cut = word.rfind("\n") + 1
        if 0 < cut < len(word) and not word[cut].isspace():  # the end of a line and the start of another
            return self.word(before, word[:cut]) + self.starts[word[cut:]]
        if not word.isascii():
            return self.encode(before + word)
        return sum(map(self.pieces.__getitem__, self.cut(before + word)))

    def block(self, text: str) -> int:
        if not text:
            return 0
        runs = text.endswith("  ") or any(run in text for run in RUNS)
        if runs and text.isascii() and self.plain(text):
            return sum(map(self.pieces.__getitem__, self.cut(text)))
        if runs or not self.plain(text):
            lines = CUT.split(text)
            return sum(map(self.block, lines)) if len(lines) > 1 else self.encode(text)
        first, *words = text.split(" ")
        return (self.starts[first] if first else 0) + sum(map(self.words.__getitem__, words))
