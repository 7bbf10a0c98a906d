"""Count tokens exactly, and faster than by encoding: what the round-2 filter, the report and sft-data ask.

A byte-level BPE cuts text into pieces by a regular expression and merges within each piece alone, so the number of
tokens of a text is the sum over its pieces, of which a few thousand different ones make up most of any text. For
Qwen2.5's expression (tokenizer.json of Qwen/Qwen2.5-14B) that sum is taken here from a cache; a piece that is not in
it is encoded once by the tokenizers library. Lines with other than ASCII, or with an added token in them, and
whole texts of every other tokenizer, go to the library as they are.
"""

import re
from pathlib import Path

from lib import Failure, sha256

QWEN2_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The same on ASCII. Python's \s has the four separators \x1c-\x1f too: text with control characters is not cut here.
ASCII_PIECES = re.compile(
    r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\na-zA-Z0-9]?[a-zA-Z]+|[0-9]| ?[^\sa-zA-Z0-9]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NOT_PLAIN = re.compile(r"[^\t\n\r\x20-\x7e]")
# A newline before anything that is not blank ends a piece, whatever surrounds it: text can be cut there.
CUT = re.compile(r"(?<=\n)(?=\S)")
CACHED_PIECES = 100_000  # of at most 64 characters: some 15 MB
BLOCK = 4096  # characters, about, that are counted at a time


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
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        added = self.tokenizer.get_added_tokens_decoder().values()
        self.added = re.compile("|".join(re.escape(token.content) for token in added) or r"(?!)")
        self.cached = self.is_qwen2() and not any(
            token.lstrip or token.rstrip or "\n" in token.content for token in added
        )
        self.pieces: dict[str, int] = {}

    @property
    def sha256(self) -> str:
        return sha256(self.path)

    def is_qwen2(self) -> bool:
        """Whether text is cut and merged as the cache supposes."""
        import json

        parts = json.loads(self.path.read_text(encoding="utf-8"))
        model, normalizer, pre = (parts.get(k) or {} for k in ("model", "normalizer", "pre_tokenizer"))
        split, last = [*pre.get("pretokenizers", [{}, {}])[:2], {}, {}][:2]
        return (
            normalizer.get("type") == "NFC"
            and len(pre.get("pretokenizers", [])) == 2
            and (split.get("type"), split.get("pattern"), split.get("behavior"), split.get("invert"))
            == ("Split", {"Regex": QWEN2_PIECES}, "Isolated", False)
            and (last.get("type"), last.get("add_prefix_space"), last.get("use_regex")) == ("ByteLevel", False, False)
            and model.get("type") == "BPE"
            and not model.get("dropout")
            and not model.get("continuing_subword_prefix")
            and not model.get("end_of_word_suffix")
        )

    def encode(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def count(self, text: str) -> int:
        """The number of tokens of a text."""
        return sum(map(self.block, self.blocks(text))) if self.cached else self.encode(text)

    def at_least(self, text: str, tokens: int) -> bool:
        """count(text) >= tokens, without counting further than that takes.

        A token has at least one byte of the text's NFC form, which for ASCII is the text.
        """
        if not self.cached:
            return self.encode(text) >= tokens
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

    def blocks(self, text: str) -> list[str]:
        """The text in parts whose tokens add up: cut at ends of pieces, and lines that are not plain ASCII alone."""
        plain = not NOT_PLAIN.search(text) and not self.added.search(text)
        if plain and len(text) <= BLOCK:
            return [text]
        if plain:
            parts, start = [], 0
            while start < len(text):
                cut = CUT.search(text, start + BLOCK)
                end = cut.start() if cut else len(text)
                parts.append(text[start:end])
                start = end
            return parts
        return CUT.split(text)

    def block(self, text: str) -> int:
        if not text:
            return 0
        if NOT_PLAIN.search(text) or self.added.search(text):
            return self.encode(text)
        pieces = ASCII_PIECES.findall(text)
        try:
            return sum(map(self.pieces.__getitem__, pieces))
        except KeyError:
            return sum(map(self.piece, pieces))

    def piece(self, piece: str) -> int:
        found = self.pieces.get(piece)
        if found is None:
            found = self.encode(piece)
            if len(piece) <= 64 and len(self.pieces) < CACHED_PIECES:
                self.pieces[piece] = found
        return found
