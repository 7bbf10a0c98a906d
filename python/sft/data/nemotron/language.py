"""The language of a text, by fastText."""

import mmap
import struct
from pathlib import Path
from typing import Any

from sft.lib.errors import Failure

# --- language ----------------------------------------------------------------------------------------------------


MAGIC = (793712314).to_bytes(4, "little")  # fastText v0.9.2 src/fasttext.cc


def is_whole(path: Path) -> bool:
    """Whether a file is at least as long as a fastText model of its header is.

    The library checks that nowhere: in a file that breaks off it reads words for ever, or has weights of nothing.
    Layout: fastText v0.9.2 src/{fasttext,args,dictionary,densematrix,quantmatrix,productquantizer}.cc.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = 0

        def take(form: str) -> tuple[Any, ...]:
            nonlocal at
            at += struct.calcsize(f"<{form}")
            return struct.unpack_from(f"<{form}", data, at - struct.calcsize(f"<{form}"))

        def quantizer() -> None:
            nonlocal at
            (columns, *_) = take("4i")
            at += 256 * 4 * columns  # centroids: float32 [columns, 256]

        def matrix(quantized: bool) -> None:
            nonlocal at
            if not quantized:
                rows, columns = take("qq")
                at += 4 * rows * columns
                return
            normed, rows, _, codes = take("?qqi")
            at += codes
            quantizer()
            if normed:
                at += rows
                quantizer()

        try:
            take("2i12id")  # magic, version, arguments
            words, _, _, _, pruned = take("3iqq")
            for _ in range(words):
                end = data.find(b"\0", at)
                if end < 0:
                    return False
                at = end + 1 + 8 + 1  # the word, how often it was, whether it is a label
            at += 8 * max(0, pruned)
            (quantized,) = take("?")
            matrix(quantized)
            (output,) = take("?")
            matrix(quantized and output)
        except struct.error:
            return False
        return at <= len(data)


class Language:
    """A fastText model that names the language of a text: English is what it puts first, whatever the probability.

    model_filters.py:74-96. Raises Failure when the file is not there or not fastText's.
    """

    def __init__(self, path: Path):
        import fasttext

        fasttext.FastText.eprint = lambda *_, **__: None  # load_model prints a warning of an interface it once had
        if not path.is_file():
            raise Failure(f"{path} is not there; set LANG_MODEL to a fastText language model, such as lid.176.ftz")
        with open(path, "rb") as file:
            if file.read(4) != MAGIC:
                raise Failure(f"{path} is not a fastText model; set LANG_MODEL to one, such as lid.176.ftz")
        if not is_whole(path):
            raise Failure(f"{path} is not a whole fastText model; fetch it again")
        try:
            self.model = fasttext.load_model(str(path))
        except (ValueError, MemoryError, RuntimeError) as error:
            raise Failure(f"{path}: fastText cannot load it ({str(error)[-80:]}); fetch it again") from None
        if "__label__en" not in self.model.get_labels():
            raise Failure(f"{path} knows no label __label__en; set LANG_MODEL to a language model")

    def english(self, texts: list[str]) -> list[bool]:
        """For each text whether it is English; line breaks are blanks. Raises ValueError for what is no text."""
        labels, _ = self.model.predict([t.replace("\n", " ").strip() for t in texts])
        return [bool(found) and found[0] == "__label__en" for found in labels]
