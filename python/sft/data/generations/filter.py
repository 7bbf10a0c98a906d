"""One block of generations through the filters."""

import json
import os
from collections import Counter
from hashlib import blake2b
from pathlib import Path

from sft.data.generations.blocks import INDEX, VERDICT, Block, Job, number_or_text, text_of
from sft.data.generations.options import KEYS_TO_KEEP, Row, truth
from sft.data.generations.rules import CHANGED, DROPPED, FILTERS, enabled, incomplete
from sft.lib.errors import Failure


def is_correct(judgement: str) -> bool | None:
    """What a judge's last verdict says; None when it cannot be read: cut off, "Yes/No", or another word.

    nemo_skills/evaluation/metrics/utils.py:36, which knows one spelling and takes all else for No.
    """
    verdicts = VERDICT.findall(judgement)
    return {"yes": True, "no": False}.get(verdicts[-1].lower()) if verdicts else None


class Filtering:
    """A worker of the first pass: reads and filters blocks; the rows that are left go to a spool file of its own."""

    def __init__(self, job: Job, folder: Path):
        self.options, self.code = job.options, job.code
        self.fields = job.prompt.fields() if job.prompt else []
        self.filters = [FILTERS[name](job.options, job.contaminated) for name in enabled(job.options)]
        self.keys = {job.options.input_key, job.options.output_key, *KEYS_TO_KEEP}
        self.spool = open(folder / str(os.getpid()), "ab")

    def block(self, block: Block) -> tuple[Counter[str], bytes]:
        """Numbers of rows that were not taken, by reason, and an INDEX record of each that was.

        Raises Failure naming file and line of a row that is none.
        """
        with open(block.path, "rb") as file:
            file.seek(block.offset)
            text = file.read(block.length)
        if len(text) != block.length:
            raise Failure(f"{block.path} became shorter while it was read; run it again when it is complete")
        lines = text.removesuffix(b"\n").split(b"\n")  # not splitlines, for which more than that ends a line
        left_out: Counter[str] = Counter()
        index, spool = bytearray(), []
        offset = self.spool.tell()
        for number, line in enumerate(lines, block.line):
            if number <= self.options.skip_first:
                left_out["skip_first"] += 1
                continue
            try:
                row, reason = self.read(line, block.graded)
                if row is None:
                    left_out[reason] += 1
                    continue
                record, stored = self.filter(row, f"{block.path}:{number}", offset)
            except ValueError as error:
                raise Failure(f"{block.path}:{number}: {error}; fix or remove it") from None
            index += record
            spool.append(stored)
            offset += len(stored)
        self.spool.writelines(spool)
        self.spool.flush()
        return left_out, bytes(index)

    def read(self, line: bytes, graded: bool) -> tuple[Row | None, str]:
        """A row, or None and why it is not taken (preprocessing.py:107-152). Raises ValueError."""
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"malformed JSON line ({error})") from None
        if not isinstance(row, dict):
            raise ValueError("malformed JSON line (not an object)")
        o = self.options
        if graded and not row:
            return None, "empty"
        if graded and not o.add_unlabeled:
            grade = "judgement" if o.use_judgement else "symbolic_correct"
            if grade not in row:
                return None, "unlabeled"
            correct = is_correct(text_of(row, grade)) if o.use_judgement else truth(row, grade)
            if correct is None:  # neither right nor wrong
                return None, "unreadable" if o.use_judgement else "unlabeled"
            if not (o.add_correct if correct else o.add_incorrect):
                return None, "correctness"
        return row, ""

    def filter(self, row: Row, where: str, offset: int) -> tuple[bytes, bytes]:
        """The INDEX record of a row, and what of it goes to the spool at `offset`. Raises ValueError, Failure."""
        o = self.options
        row = {key: value for key, value in row.items() if key in self.keys}
        problem, solution = text_of(row, o.input_key), text_of(row, o.output_key)
        group = blake2b(b"%d\0" % len(problem) + problem.encode(), digest_size=16)
        source, result = group.copy(), group.copy()
        source.update(solution.encode())
        changed = 0
        for number, apply in enumerate(self.filters):
            verdict = apply(row)
            if verdict == DROPPED:
                record = INDEX.pack(source.digest(), b"", b"", 0, 0, 0, changed, number + 1, 0)
                return record, b""
            changed |= (verdict == CHANGED) << number
        self.check(row, where)
        result.update(row[o.output_key].encode())
        stored = json.dumps([where, row]).encode() + b"\n"
        code = self.code is not None and self.code in row[o.output_key]
        hashes = source.digest(), group.digest(), result.digest()
        return INDEX.pack(*hashes, offset, len(stored), os.getpid(), changed, 0, code), stored

    def check(self, row: Row, where: str) -> None:
        """Refuse a row that the second pass could not format."""
        if row.get("expected_answer") is not None:
            number_or_text(row, "expected_answer")
        incomplete(row)
        if self.options.tokenizer is None:
            return
        for field in self.fields:
            if field not in row:
                raise ValueError(f"no field {field!r}, which the prompt asks for")
        if row.get("expected_answer", "") is None and "expected_answer" in self.fields:
            raise ValueError("field 'expected_answer' is null, which the prompt asks for")
        thinking = row.get("reasoning_content")
        if not isinstance(thinking, str | None):
            raise ValueError("no text in field 'reasoning_content'")
        if thinking and incomplete(row):  # preprocessing.py:401
            raise Failure(f"{where}: reasoning_content of a generation that was cut off; give --drop-incomplete")
        if thinking and self.options.assistant_end is not None:  # preprocessing.py:396
            raise Failure(f"{where}: --assistant-end leaves no place for reasoning_content; do without one of them")
