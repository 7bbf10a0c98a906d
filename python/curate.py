"""Curate the Llama-Nemotron data for reasoning on and off: filter, hold out, sort by length, interleave.

    python python/curate.py reasoning-lora 1 --work /lustre/me/sft --source /lustre/me/Llama-Nemotron

Writes below WORK/data/<dataset>/round<N>/: training.jsonl ({"input", "output", "completion_token_count"}, rendered),
messages.jsonl (the same rows in the same order, as messages), validation.jsonl where the recipe holds rows out, and
DONE with what each filter dropped. python/curation.py has the rules and what differs between the variants.

Worker processes filter a part of the input each and write its rows, sorted, as a shard. Of all rows only some 26 bytes
each are then held, to drop copies and to draw what is held out and taken; the outputs are put together from slices of
the shards, so that memory is a few blocks of rows a process, whatever the input's size. A row's place depends on the
rows, on the seed and on nothing else. An interrupted run is gone on with at the first shard that is not finished.
"""

import dataclasses
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import control
import recipe as recipes
import shuffle
from curation import FIELDS, FILTERS, MODES, BadRow, Filters, Kept, Rules, identities, load_filters, read_row
from data import inspect_all
from file_sets import check_shards
from lib import (
    Failure,
    Interrupted,
    Progress,
    is_done,
    log,
    new_folder,
    ratio,
    read_json,
    recipe_hash,
    resumable_folder,
    run,
    sha256,
    write_done,
    write_json,
)
from parallel import Workers, cores
from source import Part, bad_row, batches, check_unchanged, cut

CODE = ("chat_template.py", "control.py", "curate.py", "curation.py", "data.py", "shuffle.py", "source.py", "tokens.py")
LANGUAGE = "https://dl.fbaipublicfiles.com/fasttext/supervised-models/lid.176.ftz"
# Of a row that its shard holds: draw is of the row's text and the seed, so equal rows have equal ones.
INDEX = [("draw", "<u8"), ("completion", "<u4"), ("total", "<u4"), ("training", "<u4"), ("messages", "<u4")]
UNUSED, TRAINING, VALIDATION = range(3)
STRATA = 10  # classes of length within which rows are held out
TENTHS = 10
LISTED = 24  # values of used_in_training that DONE counts


@dataclass(frozen=True)
class Job:
    """What all parts have in common."""

    folder: Path
    seed: int
    rules: Rules
    tokenizer: Path
    language: Path
    evaluation: tuple[Path, ...]


@dataclass
class Curated:
    """The shard of a part, and what became of its rows. The rows with reasoning on come first in it, each half sorted.

    rows, bytes: of its files, by mode and by output. used: rows by reasoning and used_in_training.
    """

    name: str
    read: dict[str, int]
    dropped: dict[str, dict[str, int]]
    rows: dict[str, int]
    bytes: dict[str, int]
    empty: int
    used: dict[str, int]
    control: control.Counts

    def all_rows(self) -> int:
        return sum(self.rows.values())


# --- what a worker does ------------------------------------------------------------------------------------------


load_once = cache(load_filters)


def filters(job: Job) -> Filters:
    return load_once(job.rules, job.tokenizer, job.language, job.evaluation)


def probe(job: Job) -> dict[str, str]:
    """Load what the filters need, and say what it was. In a worker, for a broken model may end the process."""
    return identities(filters(job), job.tokenizer, job.language, job.evaluation)


def lines(kept: Kept) -> tuple[bytes, bytes]:
    """The row as training.jsonl and as messages.jsonl have it."""
    import orjson

    row = {"input": kept.prompt, "output": kept.completion, "completion_token_count": kept.completion_tokens}
    option = orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(row, option=option), orjson.dumps({"messages": kept.messages}, option=option)


def draw(seed: int, messages: bytes) -> int:
    """A number of 64 bits that a row's messages and the seed decide, equally spread."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(messages, digest_size=8, key=str(seed).encode()).digest(), "little")


def curate_part(task: tuple[Job, Part]) -> Curated:
    """Filter a part and write it as a shard with a record beside it. Raises Failure naming a row's file and line."""
    import numpy as np

    job, part = task
    check_unchanged(part)
    keep = filters(job)
    read = dict.fromkeys(MODES, 0)
    dropped = {mode: dict.fromkeys(FILTERS, 0) for mode in MODES}
    used: Counter[str] = Counter()
    empty = 0
    tokens: control.Counts = {}
    made: dict[str, list[tuple[int, int, int, bytes, bytes]]] = {mode: [] for mode in MODES}

    def drop(row: Any, why: str) -> None:
        dropped[row.mode][why] += 1

    for numbers, batch in batches(part, list(FIELDS)):
        rows = []
        for number, values in zip(numbers, zip(*(batch[name] for name in FIELDS), strict=True), strict=True):
            try:
                row = read_row(*values)
            except ValueError as error:
                raise bad_row(part, number, str(error)) from None
            read[row.mode] += 1
            name = f"{row.mode}: {','.join(row.used)[:80]}"
            used[name if name in used or len(used) < LISTED else f"{row.mode}: others"] += 1
            rows.append((number, row))
        try:
            for row, kept in keep(rows, drop):
                try:
                    training, messages = lines(kept)
                except TypeError as error:  # half a surrogate pair where the template does not render it
                    raise BadRow(kept.number, str(error)) from None
                empty += not row.output.strip()
                control.add(tokens, "prompt", (message["content"] for message in row.messages))
                control.add(tokens, "answer", (row.output,))
                made[row.mode].append(
                    (kept.completion_tokens, kept.total, draw(job.seed, messages), training, messages)
                )
        except BadRow as error:
            raise bad_row(part, error.number, str(error)) from None
    ordered = [row for mode in MODES for row in sorted(made[mode], key=lambda row: row[0])]
    index = np.array([(r[2], r[0], r[1], len(r[3]), len(r[4])) for r in ordered], dtype=INDEX)
    index.tofile(shard_file(job.folder, part.name, "index"))
    for column, output in ((3, "training"), (4, "messages")):
        stream = shuffle.Stream(shard_file(job.folder, part.name, output))
        stream.write(memoryview(row[column]) for row in ordered)
        stream.close()
    result = Curated(
        part.name,
        read,
        dropped,
        {mode: len(rows) for mode, rows in made.items()},
        {output: int(index[output].sum()) for output in ("training", "messages")},
        empty,
        dict(used),
        tokens,
    )
    write_json(shard_file(job.folder, part.name, "json"), dataclasses.asdict(result))
    return result


def shard_file(folder: Path, name: str, kind: str) -> Path:
    return folder / f"{name}.{kind}"


def read_index(folder: Path, name: str, first: int = 0, last: int = -1) -> Any:
    """The INDEX of a shard's rows, or of some of them."""
    import numpy as np

    width = np.dtype(INDEX).itemsize
    return np.fromfile(shard_file(folder, name, "index"), INDEX, max(-1, last - first), offset=first * width)


def finished_part(job: Job, part: Part) -> Curated | None:
    """What an interrupted run made of a part, if it finished it."""
    record = shard_file(job.folder, part.name, "json")
    if not record.is_file():
        return None
    made = Curated(**read_json(record))
    sizes = made.bytes | {"index": 24 * made.all_rows()}
    whole = all(
        (path := shard_file(job.folder, part.name, kind)).is_file() and path.stat().st_size == size
        for kind, size in sizes.items()
    )
    return made if whole else None


def curate_all(workers: Workers, job: Job, parts: list[Part]) -> list[Curated]:
    """Every part as a shard, in order; those that an interrupted run finished are taken as they are."""
    made = {part.name: found for part in parts if (found := finished_part(job, part))}
    if made:
        log(f"data: going on with an interrupted run: {len(made)} of {len(parts)} shards are there")
    tasks = [(job, part) for part in parts if part.name not in made]
    progress, total = Progress("data: rows"), sum(part.bytes for _, part in tasks) or 1
    done_bytes = done_rows = 0
    for (_, part), result in workers.run(curate_part, tasks):
        made[part.name] = result
        done_bytes, done_rows = done_bytes + part.bytes, done_rows + sum(result.read.values())
        progress.show(done_rows, done_bytes / total)
    return [made[part.name] for part in parts]


# --- which rows: copies, hold-out, sample ------------------------------------------------------------------------


def lowest(values: Any, among: Any, count: int) -> Any:
    """A mask of the `count` rows of the mask `among` with the lowest values; of equal ones the first."""
    import numpy as np

    if count <= 0:
        return np.zeros(len(values), bool)
    found = values[among]
    if count >= len(found):
        return among.copy()
    found.partition(count - 1)
    edge = found[count - 1]
    del found
    chosen = among & (values < edge)
    ties = np.flatnonzero(among & (values == edge))
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen


def copies(values: Any) -> Any:
    """A mask of the rows whose value an earlier row has; a sixteenth of them is sorted at a time."""
    import numpy as np

    found = np.zeros(len(values), bool)
    top = np.concatenate([(values[i : i + (1 << 20)] >> np.uint64(60)).astype(np.uint8) for i in starts(values)])
    for n in range(16):
        at = np.flatnonzero(top == n)
        at = at[np.argsort(values[at], kind="stable")]
        found[at[1:][values[at[1:]] == values[at[:-1]]]] = True
    return found


def histogram(values: Any, among: Any) -> Any:
    """How many rows of the mask `among` have each value, some at a time: bincount makes eight bytes of each."""
    import numpy as np

    found = np.zeros(int(values.max()) + 1, np.int64)
    for i in starts(values):
        found += np.bincount(values[i : i + (1 << 20)][among[i : i + (1 << 20)]], minlength=len(found))
    return found


def starts(values: Any) -> range:
    return range(0, max(1, len(values)), 1 << 20)


def shares(sizes: list[int], count: int) -> list[int]:
    """`count` split in proportion to sizes, in whole numbers: the largest remainders are rounded up."""
    total = sum(sizes) or 1
    parts = [size * count // total for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: (-(sizes[i] * count % total), i))
    for i in order[: count - sum(parts)]:
        parts[i] += 1
    return parts


def position(mode: str, n: int, other: int, chunk: int) -> int:
    """The place in the file of the nth row of a mode, from 0, when there are `other` rows of the other mode."""
    before = n // chunk if mode == "on" else n // chunk + 1
    return n + min(other, before * chunk)


def on_before(place: int, on: int, off: int, chunk: int) -> int:
    """Rows with reasoning on among the first `place` of the file."""
    low, high = 0, on
    while low < high:
        middle = (low + high) // 2
        if position("on", middle, off, chunk) < place:
            low = middle + 1
        else:
            high = middle
    return low


@dataclass
class Selection:
    """What becomes of the rows that passed the filters; all counts by mode."""

    training: dict[str, int]
    validation: dict[str, int]
    left_out: dict[str, int]
    duplicates: dict[str, int]
    tokens: dict[str, Any]


def select(job: Job, made: list[Curated], recipe: recipes.Recipe, source: Path) -> Selection:
    """Decide on every row that passed, and write it to job.folder/state, a byte a row in the order of the shards.

    A copy of a row, prompt and answer, goes but for the first. Rows are held out by mode and length, in the shares
    that these have, and drawn from the rest by mode; or the first of the finished file are taken, as published. All
    draws come of the rows' text and SEED. Memory: some 26 bytes a row. Raises Failure when no row is left.
    """
    import numpy as np

    rows = sum(shard.all_rows() for shard in made)
    if not rows:
        raise Failure(
            f"the filters leave none of {sum(sum(s.read.values()) for s in made):,} rows of {source}; {why(made)}"
        )
    draws, lengths = np.empty(rows, np.uint64), np.empty(rows, np.uint32)
    is_on, at = np.zeros(rows, bool), 0
    for shard in made:
        index, end = read_index(job.folder, shard.name), at + shard.all_rows()
        draws[at:end], lengths[at:end] = index["draw"], index["completion"]
        is_on[at : at + shard.rows["on"]] = True
        at = end
    masks: dict[str, Callable[[], Any]] = {"on": lambda: is_on, "off": lambda: ~is_on}
    unique = ~copies(draws) if recipe["CURATE_DEDUPLICATE"] == "true" else np.ones(rows, bool)
    duplicates = {mode: int((masks[mode]() & ~unique).sum()) for mode in MODES}

    held, asked = np.zeros(rows, bool), int(recipe["CURATE_VAL_ROWS"])
    left = int(unique.sum())
    if asked >= left:
        raise Failure(f"CURATE_VAL_ROWS={asked} of {left:,} rows leave none to train on; lower it or give more data")
    if asked:
        counts = shares([int((masks[mode]() & unique).sum()) for mode in MODES], asked)
        for mode, count in zip(MODES, counts, strict=True):
            numbers = histogram(lengths, masks[mode]() & unique)
            below = np.cumsum(numbers)
            classes = np.minimum(STRATA * np.maximum(below - 1, 0) // max(1, below[-1]), STRATA - 1).astype(np.uint8)
            sizes = [int(numbers[classes == n].sum()) for n in range(STRATA)]
            for n, part in enumerate(shares(sizes, count)):
                mine = masks[mode]() & unique
                mine[mine] = classes[lengths[mine]] == n
                held |= lowest(draws, mine, part)
    wanted = int(recipe["CURATE_ROWS"])
    pool = {mode: int((masks[mode]() & unique & ~held).sum()) for mode in MODES}
    taken = dict(pool)
    if 0 < wanted < sum(pool.values()):
        if recipe["CURATE_TAKE"] == "head":
            taken["on"] = on_before(wanted, pool["on"], pool["off"], int(recipe["CURATE_CHUNK"]))
            taken["off"] = wanted - taken["on"]
            by = lengths
        else:
            taken = dict(zip(MODES, shares([pool[mode] for mode in MODES], wanted), strict=True))
            by = draws
        chosen = np.zeros(rows, bool)
        for mode in MODES:
            chosen |= lowest(by, masks[mode]() & unique & ~held, taken[mode])
    else:
        chosen = unique & ~held
    state = np.full(rows, UNUSED, np.uint8)
    state[held], state[chosen] = VALIDATION, TRAINING
    state.tofile(job.folder / "state")
    return Selection(
        taken,
        {mode: int((masks[mode]() & held).sum()) for mode in MODES},
        {mode: pool[mode] - taken[mode] for mode in MODES},
        duplicates,
        count_tokens(job.folder, made, state),
    )


def count_tokens(folder: Path, made: list[Curated], state: Any) -> dict[str, Any]:
    """Tokens of the training rows: in all, of completions, of the longest row."""
    total = completion = longest = at = 0
    for shard in made:
        index = read_index(folder, shard.name)[state[at : at + shard.all_rows()] == TRAINING]
        total, completion = total + int(index["total"].sum()), completion + int(index["completion"].sum())
        longest, at = max(longest, int(index["total"].max(initial=0))), at + shard.all_rows()
    return {"total": total, "completion": completion, "longest": longest}


def why(made: list[Curated]) -> str:
    """What an empty result comes of, most likely."""
    gone = Counter({name: sum(s.dropped[mode][name] for s in made for mode in MODES) for name in FILTERS})
    name, count = gone.most_common(1)[0]
    return f"{count:,} go by {name}, check the CURATE_ keys"


# --- the order, and the files -------------------------------------------------------------------------------------

Edge = tuple[int, int]  # completion tokens, shard: the rows below it are shorter, or as short and of an earlier shard


def edges(folder: Path, made: list[Curated], mode: str, most: int) -> list[Edge]:
    """Where the rows of a mode, by length, are cut in buckets of at most `most` bytes, about; the last is above all."""
    import numpy as np

    sizes = np.zeros(1, np.int64)

    def by_length(shard: Curated) -> Any:
        index = mode_rows(shard, read_index(folder, shard.name), mode)
        return np.bincount(index["completion"], index["training"] + index["messages"], 1).astype(np.int64)

    for shard in made:
        found = by_length(shard)
        sizes, found = (found, sizes) if len(found) > len(sizes) else (sizes, found)
        sizes[: len(found)] += found
    # Of a length that fills more than a bucket, the rows are cut between the shards.
    large = {int(n): [0] * len(made) for n in np.flatnonzero(sizes > most)}
    if large:
        for number, shard in enumerate(made):
            found = by_length(shard)
            for length, column in large.items():
                column[number] = int(found[length]) if length < len(found) else 0
    found_edges, fill = [], 0
    for length in map(int, np.flatnonzero(sizes)):
        for shard, size in enumerate(large.get(length, [int(sizes[length])])):
            if fill and fill + size > most:
                found_edges.append((length, shard))
                fill = 0
            fill += size
    return [*found_edges, (len(sizes), 0)]


def mode_rows(shard: Curated, index: Any, mode: str) -> Any:
    return index[: shard.rows["on"]] if mode == "on" else index[shard.rows["on"] :]


@dataclass
class Output:
    """A file to be written: the rows of a state, in one of the two forms."""

    target: Path
    form: str
    state: int
    chunk: int
    shards: list[Curated]
    folder: Path
    edges: dict[str, list[Edge]]


def cuts(output: Output, mode: str) -> tuple[Any, Any]:
    """For each shard, the row and the byte of its file at which each bucket of a mode begins, and the last one ends.

    Rows are counted from the shard's first. Both: int64 [shards, buckets + 1].
    """
    import numpy as np

    lengths, owners = (np.array(column) for column in zip(*output.edges[mode], strict=True))
    rows, offsets = (np.zeros((len(output.shards), len(lengths) + 1), np.int64) for _ in range(2))
    for n, shard in enumerate(output.shards):
        index = read_index(output.folder, shard.name)
        mine = mode_rows(shard, index, mode)["completion"]
        left, right = (np.searchsorted(mine, lengths, side) for side in ("left", "right"))
        first = 0 if mode == "on" else shard.rows["on"]
        rows[n, 0], rows[n, 1:] = first, first + np.where(n < owners, right, left)
        offsets[n] = np.concatenate([[0], np.cumsum(index[output.form], dtype=np.int64)])[rows[n]]
    return rows, offsets


def in_order(output: Output, mode: str) -> Iterator[list[memoryview]]:
    """The lines of a mode by length: a bucket at a time, valid until the next one."""
    import numpy as np

    state = np.memmap(output.folder / "state", np.uint8, "r")
    base = [0, *accumulate(shard.all_rows() for shard in output.shards)]
    rows, offsets = cuts(output, mode)
    order: list[Any] = []

    def slices(bucket: int) -> list[shuffle.Slice]:
        found, lengths, wanted = [], [], []
        for n, shard in enumerate(output.shards):
            first, last = (int(row) for row in rows[n, bucket : bucket + 2])
            mask = state[base[n] + first : base[n] + last] == output.state
            if not mask.any():
                continue
            path, start = shard_file(output.folder, shard.name, output.form), int(offsets[n, bucket])
            index = read_index(output.folder, shard.name, first, last)
            if mask.sum() * 8 > len(mask):
                found.append((path, start, int(offsets[n, bucket + 1]) - start))
            else:  # a few lines of many
                ends = start + np.cumsum(index[output.form], dtype=np.int64)
                sizes, at = index[output.form][mask], ends[mask]
                found += [(path, int(end) - int(size), int(size)) for end, size in zip(at, sizes, strict=True)]
                index, mask = index[mask], mask[mask]
            lengths.append(index["completion"])
            wanted.append(mask)
        ordered = np.argsort(np.concatenate(lengths), kind="stable") if lengths else np.empty(0, np.int64)
        order.append(ordered[np.concatenate(wanted)[ordered]] if lengths else ordered)
        return found

    groups = shuffle.read_groups(slices(bucket) for bucket in range(rows.shape[1] - 1))
    for lines in groups:
        yield [lines[i] for i in order.pop(0)]


def interleaved(on: Iterator[list[memoryview]], off: Iterator[list[memoryview]], chunk: int) -> Iterator[list[Any]]:
    """A chunk of either, by turns, and at the end the rest of the longer one: groups of lines, valid until the next."""
    feeds, held, at, ended = (on, off), [[], []], [0, 0], [False, False]
    ready: list[Any] = []
    turn = 0
    while not all(ended):
        left = chunk
        while left and not ended[turn]:
            if at[turn] == len(held[turn]):
                if ready:
                    yield ready  # before what its lines are of goes
                    ready = []
                found = next(feeds[turn], None)
                ended[turn], held[turn], at[turn] = found is None, found or [], 0
                continue
            fresh = held[turn][at[turn] : at[turn] + left]
            ready += fresh
            at[turn], left = at[turn] + len(fresh), left - len(fresh)
        turn = 1 - turn
    if ready:
        yield ready


def write_output(output: Output) -> shuffle.Written:
    on, off = (in_order(output, mode) for mode in MODES)
    return shuffle.write_lines(interleaved(on, off, output.chunk), output.target)


def write_all(workers: Workers, outputs: list[Output], total: int) -> dict[str, shuffle.Written]:
    """The output files, each by one worker, for its hash is taken from the first byte to the last. total: bytes."""
    progress = Progress("data: MB written")

    def tick() -> None:
        size = sum(o.target.stat().st_size for o in outputs if o.target.is_file())
        progress.show(size >> 20, min(1.0, size / max(1, total)))

    return {output.target.name: written for output, written in workers.run(write_output, outputs, tick)}


# --- the stage ---------------------------------------------------------------------------------------------------


def source_folder(recipe: recipes.Recipe, paths: recipes.Paths, given: Path | None) -> tuple[Path, str]:
    """(folder of the source files, revision): the folder given, else generated, else downloaded, at most once."""
    if given:
        if not given.is_dir():
            raise Failure(f"DATA_SRC={given} is not a folder; give the one that holds the JSONL files")
        return given, "local"
    source, names = paths.dataset / "source", recipe["CURATE_FILES"].split(",")
    if recipe["DATASET_SOURCE"] == "hub":
        from hub import download

        patterns = [pattern for name in names for pattern in (f"SFT/{name}/*.jsonl", f"SFT/*/{name}.jsonl")]
        return source, download(recipe["DATASET"], recipe["DATASET_REVISION"], source, "dataset", patterns)
    import tiny_reasoning

    # What decides on the generated rows; rounds that curate them in other ways share them.
    keys = {name: recipe[name] for name in ("DATASET", "SCHEMA", "GENERATE_PROBLEMS", "SEED")}
    if not is_done(source, keys, {}):
        with new_folder(source) as part:
            tiny_reasoning.write_dataset(part, int(recipe["SEED"]), int(recipe["GENERATE_PROBLEMS"]))
            write_done(part, keys, {})
    return source, "generated"


def source_of(path: Path, name: str) -> str:
    """The outermost folder that is called `name` and holds the file, or the file itself."""
    parts = path.parent.parts
    return "/".join(parts[: parts.index(name) + 1]) if name in parts else str(path)


def source_files(source: Path, names: list[str]) -> list[Path]:
    """The JSONL files that are called one of the names, or lie in a folder that is. Raises Failure for a name of none.

    The tutorial takes every file with a name anywhere in its path, WORK's own included (main.py:67).
    """
    files = sorted(path for path in source.rglob("*.jsonl") if path.is_file())
    found: dict[Path, None] = {}
    for name in names:
        mine = [p for p in files if p.stem == name or name in p.relative_to(source).parent.parts]
        if not mine:
            raise Failure(f"{source} has no {name}.jsonl and no {name}/*.jsonl; set DATA_SRC to the folder that has")
        places = {source_of(path.relative_to(source), name) for path in mine}
        if len(places) > 1:
            raise Failure(f"{source} has {name} in {len(places)} places: {' and '.join(sorted(places))}; leave one")
        check_shards(mine)
        found |= dict.fromkeys(mine)
    return list(found)


def tokenizer_folder(paths: recipes.Paths, given: Path | None, again: str) -> Path:
    """The folder of the tokenizer and its chat template: the one given, else the base model's."""
    folder = given or paths.base
    if not (folder / "tokenizer.json").is_file():
        remedy = "set TOKENIZER to a folder that has" if given else f"run: make model {again}, or set TOKENIZER"
        raise Failure(f"{folder} has no tokenizer.json; {remedy}")
    return folder


def language_model(paths: recipes.Paths, source: Path, given: Path | None, url: str) -> Path:
    """The file given, else the one that generated data brings, else that of the URL, downloaded once."""
    if given:
        return given
    if (source / "lid.bin").is_file():
        return source / "lid.bin"
    target = paths.work / "models" / "lid.176.ftz"
    if not target.is_file():
        log(f"downloading {url}")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, open(part, "wb") as file:
                shutil.copyfileobj(answer, file)
                size = answer.headers.get("Content-Length")
            if size and int(size) != part.stat().st_size:
                raise ValueError(f"{part.stat().st_size} of {size} bytes came")
            part.rename(target)
        except (urllib.error.URLError, http.client.HTTPException, ValueError, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", error))[:100]
            raise Failure(f"{url} cannot be fetched ({reason}); set LANG_MODEL to the file") from None
        finally:
            part.unlink(missing_ok=True)
    return target


def evaluation_files(recipe: recipes.Recipe, paths: recipes.Paths) -> tuple[Path, ...]:
    """The sets whose questions are kept out of the training rows: WORK/data/<set>/test.jsonl, or its source/'s."""
    found = []
    for name in recipe["CURATE_DECONTAMINATE"].split(","):
        if name == "none":
            continue
        folder = paths.work / "data" / name
        path = next((p for p in (folder / "test.jsonl", folder / "source" / "test.jsonl") if p.is_file()), None)
        if not path:
            raise Failure(f"{folder}/test.jsonl is not there, which CURATE_DECONTAMINATE names; prepare that set first")
        found.append(path)
    return tuple(found)


def identify(workers: Workers, job: Job) -> dict[str, str]:
    try:
        return next(found for _, found in workers.run(probe, [job]))
    except Interrupted:
        raise Failure(f"{job.language}: fastText cannot load it, and dies of it; fetch it again") from None


def main() -> None:
    parser = recipes.parser(__doc__)
    parser.add_argument("--source", type=Path, help="a folder of JSONL files, in place of the download")
    parser.add_argument(
        "--tokenizer", type=Path, help="a folder with tokenizer and chat template (default: the base's)"
    )
    parser.add_argument("--lang-model", type=Path, help="a fastText language model, in place of the download")
    parser.add_argument("--lang-model-url", default=LANGUAGE, help=f"where that comes from (default: {LANGUAGE})")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    args, recipe, paths = recipes.open_run(parser)
    keys, seed = recipes.stage_keys(recipe, "data"), int(recipe["SEED"])
    tokenizer = tokenizer_folder(paths, args.tokenizer, f"MODEL={args.model} ROUND={args.round}")
    source, revision = source_folder(recipe, paths, args.source)
    evaluation = evaluation_files(recipe, paths)  # generated data brings its own
    found = source_files(source, recipe["CURATE_FILES"].split(","))
    language = language_model(paths, source, args.lang_model, args.lang_model_url)
    rules = Rules(
        recipe["CURATE_USED_IN"],
        int(recipe["CURATE_MAX_TOKENS"]),
        int(recipe["CURATE_MAX_COMPLETION"]),
        recipe["VARIANT"] == "published",
    )
    job = Job(paths.data, seed, rules, tokenizer, language, evaluation)
    with Workers(cores(args.workers)) as workers:
        inputs = identify(workers, job)
        sources = inspect_all(workers, [(path, "rows") for path in found], {"rows": list(FIELDS)})
        inputs |= {str(s.path.relative_to(source)): s.sha256 for s in sources}
        if is_done(paths.data, keys, inputs):
            log(f"data: {paths.data} is already there")
            return
        if paths.data.exists():
            raise Failure(f"{paths.data} exists and is not ours to write; move it away or set another WORK")
        block = shuffle.block_size(sum(s.text for s in sources))
        parts = cut(sources, block)
        code = {name: sha256(Path(__file__).with_name(name)) for name in CODE}
        with resumable_folder(paths.data, {"recipe": keys, "inputs": inputs, "code": recipe_hash(code)}) as folder:
            shards = folder / "shards"
            shards.mkdir(exist_ok=True)
            job = dataclasses.replace(job, folder=shards)
            made = curate_all(workers, job, parts)
            chosen = select(job, made, recipe, source)
            chunk = int(recipe["CURATE_CHUNK"])
            at = {mode: edges(shards, made, mode, block) for mode in MODES}
            names = [("training", "training", TRAINING), ("messages", "messages", TRAINING)]
            if sum(chosen.validation.values()):
                names.append(("validation", "training", VALIDATION))
            outputs = [Output(folder / f"{n}.jsonl", form, state, chunk, made, shards, at) for n, form, state in names]
            written = write_all(workers, outputs, sum(sum(shard.bytes.values()) for shard in made))
            for output in outputs:
                file = written[output.target.name]
                want = sum((chosen.training if output.state == TRAINING else chosen.validation).values())
                if file.rows != want:
                    raise Failure(f"{output.target.name}: {file.rows} rows written of {want}; report it")
            shutil.rmtree(shards)
            workers.close()
            done = write_done(folder, keys, inputs, **facts(made, parts, chosen, chunk, source, revision, written))
    summary(done, paths.data)
    if done["rows"]["all"] < int(recipe["GLOBAL_BATCH"]):
        log(f"data: that does not fill one GLOBAL_BATCH={recipe['GLOBAL_BATCH']}: training will refuse it")


def facts(
    made: list[Curated],
    parts: list[Part],
    chosen: Selection,
    chunk: int,
    source: Path,
    revision: str,
    written: dict[str, shuffle.Written],
) -> dict[str, Any]:
    """What DONE says of the curation beside keys and inputs."""
    files: dict[str, dict[str, dict[str, int]]] = {}
    used: Counter[str] = Counter()
    for part, shard in zip(parts, made, strict=True):
        entry = files.setdefault(str(part.path.relative_to(source)), {m: {"read": 0, "passed": 0} for m in MODES})
        for mode in MODES:
            entry[mode]["read"] += shard.read[mode]
            entry[mode]["passed"] += shard.rows[mode]
        used.update(shard.used)
    dropped = {mode: {name: sum(s.dropped[mode][name] for s in made) for name in FILTERS} for mode in MODES}
    for mode in MODES:
        dropped[mode]["duplicate"] = chosen.duplicates[mode]
    on, off = (chosen.training[mode] for mode in MODES)
    places = [(on + off) * n // TENTHS for n in range(TENTHS + 1)]
    return {
        "revision": revision,
        "read": {mode: sum(s.read[mode] for s in made) for mode in MODES},
        "dropped": dropped,
        "validation": chosen.validation,
        "left_out": chosen.left_out,
        "rows": chosen.training | {"all": on + off},
        "empty": sum(s.empty for s in made),
        "control_tokens": control.merge(s.control for s in made),  # of all rows that passed the filters
        "files": files,
        "used_in_training": dict(used.most_common(LISTED)),
        # Of each tenth of training.jsonl: rows, and how many of them have reasoning on.
        "along": [
            {"rows": last - first, "on": on_before(last, on, off, chunk) - on_before(first, on, off, chunk)}
            for first, last in pairwise(places)
        ],
        "tokens": chosen.tokens,
        "longest": [{"bytes": size, "offset": at} for size, at in written["training.jsonl"].longest],
        "outputs": {name: file.sha256 for name, file in sorted(written.items())},
        "bytes": {name: file.bytes for name, file in sorted(written.items())},
    }


def summary(done: dict[str, Any], folder: Path) -> None:
    """What the stage did, for people."""
    rows, read = done["rows"], sum(done["read"].values())
    log(f"data: {rows['all']:,} rows (on {rows['on']:,}, off {rows['off']:,}) in {folder}")
    log(f"data: {ratio(read, done['seconds'])} rows read a second")
    for mode in MODES:
        by = ", ".join(f"{n:,} by {name}" for name, n in done["dropped"][mode].items() if n) or "none"
        rest = "".join(
            f", {done[key][mode]:,} {what}" for key, what in (("validation", "held out"), ("left_out", "not taken"))
        )
        log(f"data: {mode}: {done['read'][mode]:,} rows read, dropped {by}{rest}; {rows[mode]:,} kept")
        if done["read"][mode] and not rows[mode]:
            log(f"data: no row with reasoning {mode} is left; used_in_training holds: {done['used_in_training']}")
    shares = " ".join(ratio(part["on"], part["rows"], ".0%") for part in done["along"])
    log(f"data: reasoning on along the file, by tenths: {shares}")
    if found := control.sentence(done["control_tokens"]):
        log(f"data: {found}")


if __name__ == "__main__":
    run(main)
