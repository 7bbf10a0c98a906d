"""The generations beside the page: small files, each loaded when one of its answers is opened.

A page that was opened from a disk may not read files, but it may load scripts. So a chunk is a script that hands over
one string: JSON, compressed, in base64. No text of a model can be read as code there, and a few hundred opened answers
take little memory.
"""

import base64
import json
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

SIZE = 512 << 10  # of a chunk's JSON; an answer of 32k tokens has about 130 kB
ROWS = 200
LEVEL = 3
THREADS, WAITING = 4, 8  # zlib leaves Python's lock to others; WAITING chunks are held at most


class Chunks:
    """Writes rows to folder/0.js, 1.js, ... first: the number of each chunk's first row. To be used in a with block."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.first: list[int] = []
        self.rows = 0
        self.held: list[str] = []
        self.bytes = 0
        self.pool = ThreadPoolExecutor(THREADS)
        self.waiting: deque[Future[None]] = deque()
        folder.mkdir(parents=True)

    def add(self, row: dict[str, Any]) -> None:
        text = json.dumps(row, ensure_ascii=True, separators=(",", ":"))
        if self.held and (self.bytes + len(text) > SIZE or len(self.held) == ROWS):
            self.flush()
        if not self.held:
            self.first.append(self.rows)
        self.held.append(text)
        self.bytes += len(text)
        self.rows += 1

    def flush(self) -> None:
        if len(self.waiting) == WAITING:
            self.waiting.popleft().result()
        if self.held:
            self.waiting.append(self.pool.submit(write, self.folder / f"{len(self.first) - 1}.js", self.held))
        self.held, self.bytes = [], 0

    def __enter__(self) -> "Chunks":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.flush()
        self.pool.shutdown(cancel_futures=kind is not None)
        while kind is None and self.waiting:
            self.waiting.popleft().result()


def write(path: Path, rows: list[str]) -> None:
    packed = zlib.compress(f"[{','.join(rows)}]".encode("ascii"), LEVEL)
    path.write_text(f'generations("{base64.b64encode(packed).decode("ascii")}");\n', encoding="ascii")
