"""Training data from files of generations: filtered, chosen, formatted, shuffled, written."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from sft.data.generations.blocks import BLOCK_BYTES, INDEX, Block, Job
from sft.data.generations.choose import Chosen, choose
from sft.data.generations.filter import Filtering
from sft.data.generations.format import Formatting
from sft.data.generations.options import Row
from sft.data.generations.rules import FILTERS
from sft.lib.errors import Failure
from sft.lib.progress import Progress, log
from sft.lib.workers import cores, run_all
from sft.rows import control


def scan(files: list[tuple[Path, bool]]) -> tuple[dict[str, str], list[Block], int]:
    """sha256 of each file, the blocks that they are worked in, and the number of their lines."""
    digests, blocks, lines = {}, [], 0
    progress = Progress("bytes looked at", sum(path.stat().st_size for path, _ in files))
    seen = 0
    for path, graded in files:
        digest, offset, line = sha256(), 0, 1
        with open(path, "rb") as file:
            while text := file.read(BLOCK_BYTES):
                text += file.readline()
                digest.update(text)
                blocks.append(Block(len(blocks), path, graded, offset, len(text), line))
                offset += len(text)
                line += text.count(b"\n") + (not text.endswith(b"\n"))
                progress.show(seen + offset)
        digests[str(path.absolute())] = digest.hexdigest()
        seen += offset
        lines += line - 1
    return digests, blocks, lines


# A worker's state; None in the parent.
filtering: Filtering | None = None
formatting: Formatting | None = None


def open_filtering(*arguments: Any) -> None:
    global filtering
    filtering = Filtering(*arguments)


def open_formatting(*arguments: Any) -> None:
    global formatting
    formatting = Formatting(*arguments)


def filter_block(block: Block) -> tuple[Counter[str], bytes]:
    assert filtering
    return filtering.block(block)


def format_block(task: tuple[int, int, int]) -> tuple[int, control.Counts, bytes]:
    assert formatting
    return formatting.block(task)


def in_turn(results: Iterator[tuple[int, bytes]], folder: Path) -> Iterator[bytes]:
    """Numbered blocks in their order. One that comes before its turn waits on disk, not in memory."""
    due = 0
    for number, block in results:
        if number != due:
            (folder / f"early{number}").write_bytes(block)
            continue
        yield block
        due += 1
        while (early := folder / f"early{due}").is_file():
            yield early.read_bytes()
            early.unlink()
            due += 1


def alone(function: Callable[[Any], Any], task: Any) -> Any:
    """The result of a function in a process of its own."""
    return next(result for _, result in run_all(function, [task], 1))


def prepare(job: Job, blocks: list[Block], lines: int, part: Path) -> Row:
    """Write part/all.jsonl from the blocks; returns the facts: numbers of rows. Raises Failure."""
    processes = cores(job.options.workers)
    spool = part / "spool"
    spool.mkdir()
    left_out: Counter[str] = Counter()
    progress, read = Progress("rows read", lines), 0

    def filtered() -> Iterator[tuple[int, bytes]]:
        nonlocal read
        used = max(1, min(processes, len(blocks)))
        for block, (counts, index) in run_all(filter_block, blocks, used, open_filtering, (job, spool)):
            left_out.update(counts)
            read += counts.total() + len(index) // INDEX.size
            progress.show(read)
            yield block.number, index

    with open(spool / "index", "wb") as file:
        file.writelines(in_turn(filtered(), spool))
    chosen: Chosen = alone(choose, (job.options, spool))
    reasons = ("skip_first", "empty", "unlabeled", "unreadable", "correctness")
    dropped = {reason: left_out[reason] for reason in reasons} | chosen.dropped
    if not chosen.rows:
        why = ", ".join(f"{reason} drops {count:,}" for reason, count in dropped.items() if count)
        raise Failure(f"no row is left of {read:,} ({why or 'the input is empty'}); correct the options or the input")

    tasks = [(n, a, b) for n, (a, b) in enumerate(zip([0, *chosen.cuts], chosen.cuts, strict=False))]
    progress, written, cut_off = Progress("rows written", chosen.rows), 0, 0
    tokens: list[control.Counts] = []

    def formatted() -> Iterator[tuple[int, bytes]]:
        nonlocal cut_off, written
        used = min(processes, len(tasks))
        made = run_all(format_block, tasks, used, open_formatting, (job, spool))
        for (number, first, end), (some, found, text) in made:
            cut_off += some
            tokens.append(found)
            written += end - first
            progress.show(written)
            yield number, text

    with open(part / "all.jsonl", "wb") as file:
        file.writelines(in_turn(formatted(), spool))
    shutil.rmtree(spool)
    return {
        "rows_read": read,
        "dropped": dropped,
        "modified": chosen.changed,
        "rows": {"all": chosen.rows},
        "without_end_of_turn": cut_off,
        "control_tokens": control.merge(tokens),
    }


def report(target: Path, facts: Row) -> None:
    log(f"sft-data: {facts['rows_read']:,} rows read")
    if count := facts["dropped"]["unreadable"]:
        log(f"sft-data: {count:,} judgements say neither Yes nor No after their last 'Judgement:'; taken for neither")
    for what in ("dropped", "modified"):
        for reason, count in facts[what].items():
            if count or reason in FILTERS:
                log(f"sft-data: {what} {count:,} ({reason})")
    if count := facts["without_end_of_turn"]:
        log(f"sft-data: {count:,} generations that were cut off have no end of turn; --drop-incomplete drops them")
    if found := control.sentence(facts["control_tokens"]):
        log(f"sft-data: {found}")
    log(f"sft-data: {facts['rows']['all']:,} rows kept in {target / 'all.jsonl'}")
