"""Prepare a round's training data: parquet or JSONL in OpenMathReasoning's schema -> shuffled input/output rows.

    python python/data.py qwen7b 1 --work /lustre/me/sft --source /lustre/me/OpenMathReasoning

Writes cot.jsonl, tir.jsonl, genselect.jsonl (in source order), all.jsonl (their rows, shuffled with SEED) and DONE
below WORK/data/<dataset>/round<N>/. python/openmath.py has the rows' rules, python/source.py reads the files,
python/shuffle.py gives the rows their order.

Worker processes read, filter and format a part of the input each and write it as a shard; then the shards are merged.
Memory is a few blocks of rows a worker, whatever the input's size. An interrupted run is gone on with at the first
shard that is not finished.
"""

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import control
import recipe as recipes
import shuffle
import tiny
from file_sets import check_no_copies
from lib import (
    Failure,
    Progress,
    is_done,
    log,
    new_folder,
    ratio,
    read_done,
    read_json,
    recipe_hash,
    resumable_folder,
    run,
    sha256,
    usage,
    write_done,
    write_json,
)
from openmath import TEXTS, Filter, Row, code_executions, ending, format_messages, format_row, frame, text_of
from parallel import Workers, cores
from source import Batch, Choose, Part, Source, bad_row, batches, check_unchanged, cut, inspect_source, source_files

FORMATS, FORMS = ("jsonl", "parquet"), ("text", "messages")
# Shards of other code are not gone on with.
CODE = ("control.py", "data.py", "openmath.py", "shuffle.py", "source.py", "tokens.py")
RULES = ("problem_source", "pass_rate", "length")  # by which the filter drops a row, in their order


@dataclass
class Job:
    """What all parts have in common."""

    folder: Path
    seed: int
    block: int
    buckets: int
    form: str
    columns: list[str]
    filter: Filter | None

    def make(self, split: str, row: Row) -> Row:
        """The output row of a source row. Raises ValueError naming what is missing."""
        made = format_messages(split, row) if self.form == "messages" else format_row(split, row)
        for column in self.columns:
            if row.get(column, ...) is ...:
                raise ValueError(f"field {column!r} is not there")
            made[column] = row[column]
        return made


@dataclass
class Formatted:
    """The shard that was made of a part, and what became of its rows."""

    shard: shuffle.Shard
    split: str
    read: int
    rows: int
    bytes: int
    dropped: dict[str, int]
    empty: int
    control: control.Counts


# --- what a worker does ------------------------------------------------------------------------------------------


def choose_by(rules: Filter, part: Part, dropped: dict[str, int]) -> Choose:
    """The rules that need no text, as `batches` asks for them; `dropped` counts what goes by each."""

    def choose(numbers: Sequence[int], batch: Batch) -> list[int]:
        wanted = []
        for n, (source, rate) in enumerate(zip(*(batch[name] for name in rules.COLUMNS), strict=True)):
            try:
                why = rules.cheap(source, rate)
            except ValueError as error:
                raise bad_row(part, numbers[n], str(error)) from None
            if why:
                dropped[why] += 1
            else:
                wanted.append(n)
        return wanted

    return choose


def drop_short(rules: Filter, part: Part, numbers: Sequence[int], batch: Batch) -> tuple[Sequence[int], Batch]:
    """Without the rows whose solutions have too few tokens."""
    wanted = []
    for n, solution in enumerate(batch[TEXTS[1]]):
        try:
            if rules.long_enough(part.split, text_of({TEXTS[1]: solution}, TEXTS[1])):
                wanted.append(n)
        except ValueError as error:
            raise bad_row(part, numbers[n], str(error)) from None
    return [numbers[n] for n in wanted], {name: [values[n] for n in wanted] for name, values in batch.items()}


def format_lines(job: Job, split: str, batch: Batch) -> list[bytes]:
    """The JSON lines of a batch. Raises some error for a row that cannot be formatted: `first_fault` says which."""
    import orjson

    option = orjson.OPT_APPEND_NEWLINE
    if job.form == "messages" or job.columns:
        rows = (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
        return [orjson.dumps(job.make(split, row), option=option) for row in rows]
    problems, solutions = (batch[name] for name in TEXTS)
    frames = [frame(split, code_executions(s) if split == "tir" else 0) for s in solutions]
    return [
        orjson.dumps({"input": before + problem + after, "output": ending(solution)}, option=option)
        for (before, after), problem, solution in zip(frames, problems, solutions, strict=True)
    ]


def first_fault(job: Job, part: Part, numbers: Sequence[int], batch: Batch) -> Failure:
    """The failure of the first row of a batch that cannot be formatted."""
    import orjson

    for n, values in enumerate(zip(*batch.values(), strict=True)):
        try:
            orjson.dumps(job.make(part.split, dict(zip(batch, values, strict=True))))
        except (ValueError, TypeError) as error:  # also half a surrogate pair, which is no text
            return bad_row(part, numbers[n], str(error))
    raise AssertionError("every row of the batch can be formatted alone")


def format_part(task: tuple[Job, Part]) -> Formatted:
    """Read, filter and format a part, and write it as a shard with a record beside it. Raises Failure."""
    job, part = task
    check_unchanged(part)
    rules = job.filter if job.filter and part.split in job.filter.splits else None
    columns = list(dict.fromkeys([*TEXTS, *job.columns]))
    path = job.folder / f"{part.name}.rows"
    dropped = dict.fromkeys(RULES if rules else (), 0)
    if rules:
        rules.load()
    found = batches(part, columns, rules.COLUMNS, choose_by(rules, part, dropped)) if rules else batches(part, columns)
    writer = shuffle.ShardWriter(path.with_suffix(".part"), part.name, job.seed, job.buckets, job.block)
    rows = empty = 0
    tokens: control.Counts = {}
    for numbers, batch in found:
        if rules:
            before = len(numbers)
            numbers, batch = drop_short(rules, part, numbers, batch)
            dropped["length"] += before - len(numbers)
        try:
            fresh = format_lines(job, part.split, batch)
        except (ValueError, TypeError, AttributeError):
            raise first_fault(job, part, numbers, batch) from None
        rows += len(fresh)
        empty += sum(not all(pair) for pair in zip(*(batch[name] for name in TEXTS), strict=True))
        for kind, name in zip(("problem", "answer"), TEXTS, strict=True):
            control.add(tokens, kind, batch[name])
        for line in fresh:
            writer.add(line)
    shard = writer.close()
    shard.path = shard.path.rename(path)
    made = Formatted(shard, part.split, rows + sum(dropped.values()), rows, writer.stream.bytes, dropped, empty, tokens)
    blocks = [dataclasses.asdict(block) for block in shard.blocks]
    write_json(path.with_suffix(".json"), dataclasses.asdict(made) | {"shard": blocks})
    return made


def finished_part(job: Job, part: Part) -> Formatted | None:
    """What an interrupted run made of a part, if it finished it."""
    path = job.folder / f"{part.name}.rows"
    if not path.with_suffix(".json").is_file() or not path.is_file():
        return None
    record = read_json(path.with_suffix(".json"))
    shard = shuffle.Shard(path, part.name, [shuffle.Block(**block) for block in record["shard"]])
    made = Formatted(**record | {"shard": shard})
    return made if path.stat().st_size == made.bytes else None


@dataclass
class Merge:
    """An output file to be written: a split's rows in source order, or all rows shuffled."""

    target: Path
    shards: list[shuffle.Shard]
    job: Job
    mixed: bool


def write_output(task: Merge) -> shuffle.Written:
    groups = (shuffle.shuffled if task.mixed else shuffle.in_order)(task.shards, task.job.seed, task.job.buckets)
    return (
        write_parquet(groups, task.target)
        if task.target.suffix == ".parquet"
        else shuffle.write_lines(groups, task.target)
    )


def write_parquet(groups: Iterator[list[memoryview]], target: Path) -> shuffle.Written:
    """The same rows as parquet, for loaders that map it instead of parsing it. No record of the longest rows."""
    import orjson
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, writer, schema = 0, None, None
    for lines in groups:
        for first in range(0, len(lines), 1000):
            values = [orjson.loads(line) for line in lines[first : first + 1000]]
            table = pa.Table.from_pylist(values, schema)
            if writer is None:
                schema = pa.schema([f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in table.schema])
                table, writer = table.cast(schema), pq.ParquetWriter(target, schema)
            writer.write_table(table)
            rows += len(values)
    if writer is None:  # the filter has left nothing of a split
        writer = pq.ParquetWriter(target, pa.schema([("input", pa.string()), ("output", pa.string())]))
    writer.close()
    return shuffle.Written(rows, target.stat().st_size, sha256(target), [])


# --- the stage ---------------------------------------------------------------------------------------------------


def source_folder(recipe: recipes.Recipe, paths: recipes.Paths, given: Path | None) -> tuple[Path, str]:
    """(folder of the source files, revision): the folder given, else generated, else downloaded, at most once."""
    if given:
        if not given.is_dir():
            raise Failure(f"DATA_SRC={given} is not a folder; give the one that holds the parquet files")
        return given, "local"
    source = paths.dataset / "source"
    splits = recipe["SPLITS"].split(",")
    if recipe["DATASET_SOURCE"] == "hub":
        from hub import download

        patterns = [f"{prefix}{split}-*" for split in splits for prefix in ("", "data/")]
        return source, download(recipe["DATASET"], recipe["DATASET_REVISION"], source, "dataset", patterns)
    seed, keys = int(recipe["SEED"]), recipes.stage_keys(recipe, "data")
    if not is_done(source, keys, {}):
        with new_folder(source) as part:
            tiny.write_dataset(part, splits, int(recipe["GENERATE_PROBLEMS"]), seed)
            held_out = tiny.write_eval_set(part / "test.jsonl", seed)
            write_done(part, keys, {}, held_out=held_out)
    return source, "generated"


def filter_of(recipe: recipes.Recipe, paths: recipes.Paths, given: Path | None) -> Filter | None:
    """The recipe's filter, with its tokenizer at hand: in the folder given, else downloaded, at most once."""
    if recipe["FILTER_SPLITS"] == "none":
        return None
    repo = recipe["FILTER_TOKENIZER"]
    folder = given or paths.work / "tokenizers" / repo.split("/")[-1]
    if not given:
        from hub import download

        download(repo, recipe["FILTER_TOKENIZER_REVISION"], folder, "model", ["tokenizer*.json"], "TOKENIZER")
    if not (folder / "tokenizer.json").is_file():
        raise Failure(f"{folder} has no tokenizer.json; set TOKENIZER to a folder with that of {repo}")
    return Filter(
        recipe["FILTER_SPLITS"].split(","),
        recipe["FILTER_SOURCES"].split(","),
        float(recipe["FILTER_MAX_PASS_RATE"]),
        int(recipe["FILTER_MIN_TOKENS"]),
        folder,
    )


def inspect_all(workers: Workers, files: list[tuple[Path, str]], columns: dict[str, list[str]]) -> list[Source]:
    """Hashes, rows and row groups of the source files, in their order."""
    progress = Progress("data: MB read and hashed", sum(path.stat().st_size for path, _ in files) >> 20)
    found: dict[Path, Source] = {}
    for _, source in workers.run(inspect_source, [(path, split, columns[split]) for path, split in files]):
        found[source.path] = source
        progress.show(sum(s.size for s in found.values()) >> 20)
    for name in {split for _, split in files}:
        check_no_copies({str(path): found[path].sha256 for path, split in files if split == name and found[path].size})
    return [found[path] for path, _ in files]


def check_room(folder: Path, need: int) -> None:
    """Refuse to begin what the disk cannot hold. need: bytes."""
    free = shutil.disk_usage(folder).free
    if need > free:
        raise Failure(
            f"{folder} has {free / 1e9:.1f} GB free, and {need / 1e9:.1f} GB are needed while the rows are shuffled; "
            "free some, or set WORK to another disk"
        )


def format_all(workers: Workers, job: Job, parts: list[Part]) -> list[Formatted]:
    """Every part as a shard, in order; those that an interrupted run finished are taken as they are."""
    made = {part.name: found for part in parts if (found := finished_part(job, part))}
    if made:
        log(f"data: going on with an interrupted run: {len(made)} of {len(parts)} shards are there")
    tasks = [(job, part) for part in parts if part.name not in made]
    progress, total = Progress("data: rows"), sum(part.bytes for _, part in tasks) or 1
    done_bytes = done_rows = 0
    for (_, part), result in workers.run(format_part, tasks):
        made[part.name] = result
        done_bytes, done_rows = done_bytes + part.bytes, done_rows + result.read
        progress.show(done_rows, done_bytes / total)
    return [made[part.name] for part in parts]


def merge_all(
    workers: Workers, job: Job, folder: Path, made: list[Formatted], suffix: str
) -> dict[str, shuffle.Written]:
    """The output files of the shards, each by one worker, for its hash is taken from the first byte to the last."""
    merges = [Merge(folder / f"all.{suffix}", [m.shard for m in made], job, True)]
    sizes: dict[str, int] = {}
    for m in made:
        sizes[m.split] = sizes.get(m.split, 0) + m.bytes
    for split in sorted(sizes, key=sizes.__getitem__, reverse=True):
        merges.append(Merge(folder / f"{split}.{suffix}", [m.shard for m in made if m.split == split], job, False))
    progress, total = Progress("data: MB written"), 2 * sum(sizes.values()) or 1

    def tick() -> None:
        size = sum(m.target.stat().st_size for m in merges if m.target.is_file())
        progress.show(size >> 20, size / total if suffix == "jsonl" else None)

    return {task.target.stem: result for task, result in workers.run(write_output, merges, tick)}


def main() -> None:
    parser = recipes.parser(__doc__)
    parser.add_argument("--source", type=Path, help="a folder of parquet or JSONL files, in place of the download")
    parser.add_argument("--tokenizer", type=Path, help="a folder with the filter's tokenizer, in place of the download")
    parser.add_argument("--format", choices=FORMATS, default="jsonl", help="of the output files (default: jsonl)")
    parser.add_argument("--form", choices=FORMS, default="text", help="rows of input and output, or of messages")
    parser.add_argument("--columns", default="", help="columns of the source to keep beside them, separated by commas")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    args, recipe, paths = recipes.open_run(parser)
    if recipe["DATASET_SOURCE"] == "prepared":
        done = read_done(paths.data, f"run: make sft-data NAME={paths.dataset.name} INPUT='...'")
        log(f"data: {done['rows']['all']:,} rows in {paths.data}, made by sft-data")
        return
    columns = [c for c in args.columns.split(",") if c]
    for taken in {"input", "output", "messages", *TEXTS} & set(columns):
        usage(f"column {taken} is a part of every row already; remove it from DATA_COLUMNS")
    options = {"DATA_FORMAT": args.format, "DATA_FORM": args.form, "DATA_COLUMNS": ",".join(columns)}
    keys = recipes.stage_keys(recipe, "data") | options
    splits = recipe["SPLITS"].split(",")
    source, revision = source_folder(recipe, paths, args.source)
    rules = filter_of(recipe, paths, args.tokenizer)
    files = [(path, split) for split in splits for path in source_files(source, split)]
    wanted = {s: [*TEXTS, *columns, *(rules.COLUMNS if rules and s in rules.splits else ())] for s in splits}

    with Workers(cores(args.workers)) as workers:
        sources = inspect_all(workers, files, wanted)
        inputs = {str(s.path.relative_to(source)): s.sha256 for s in sources}
        if rules:
            inputs["tokenizer.json"] = sha256(rules.tokenizer / "tokenizer.json")
        if is_done(paths.data, keys, inputs):
            log(f"data: {paths.data} is already there")
            return
        text = sum(s.text for s in sources)
        block = shuffle.block_size(text)
        parts = cut(sources, block)
        code = {name: sha256(Path(__file__).with_name(name)) for name in CODE}
        with resumable_folder(paths.data, {"recipe": keys, "inputs": inputs, "code": recipe_hash(code)}) as folder:
            shards = folder / "shards"
            shards.mkdir(exist_ok=True)
            if not rules and not any(shards.iterdir()):
                check_room(folder, 3 * text)  # the shards, the splits and their mix
            job = Job(shards, int(recipe["SEED"]), block, text // block + 1, args.form, columns, rules)
            made = format_all(workers, job, parts)
            of = {split: [m for m in made if m.split == split] for split in splits}
            read = {split: sum(m.read for m in of[split]) for split in splits}
            rows = {split: sum(m.rows for m in of[split]) for split in splits}
            rows["all"] = sum(rows.values())
            for split in splits:
                if not read[split]:
                    raise Failure(f"{source}: split {split} has no rows; fetch it again")
            if not rows["all"]:
                raise Failure(f"the filter leaves none of {sum(read.values()):,} rows of {source}; check its keys")
            written = merge_all(workers, job, folder, made, args.format)
            for name, file in written.items():
                if file.rows != rows[name]:
                    raise Failure(f"{name}: {file.rows} rows written of {rows[name]}; report it, this must not be")
            shutil.rmtree(shards)
            workers.close()
            done = write_done(
                folder,
                keys,
                inputs,
                revision=revision,
                read=read,
                dropped={s: {rule: sum(m.dropped[rule] for m in of[s]) for rule in of[s][0].dropped} for s in splits},
                empty=sum(m.empty for m in made),
                control_tokens=control.merge(m.control for m in made),
                rows=rows,
                shuffled=True,
                outputs={f"{name}.{args.format}": file.sha256 for name, file in sorted(written.items())},
                bytes={f"{name}.{args.format}": file.bytes for name, file in sorted(written.items())},
                longest=[{"bytes": size, "offset": at} for size, at in written["all"].longest],
            )
    summary(done, paths.data, sum(read.values()))
    if rows["all"] < int(recipe["GLOBAL_BATCH"]):
        log(f"data: that does not fill one GLOBAL_BATCH={recipe['GLOBAL_BATCH']}: training will refuse it")


def summary(done: dict[str, Any], folder: Path, read: int) -> None:
    """What the stage did, for people."""
    rows = done["rows"]
    splits = ", ".join(f"{s} {n:,}" for s, n in rows.items() if s != "all")
    log(f"data: {rows['all']:,} rows ({splits}) in {folder}; {ratio(read, done['seconds'])} rows read a second")
    for split, rules in done["dropped"].items():
        if rules:
            by = ", ".join(f"{n:,} by {rule}" for rule, n in rules.items())
            log(f"data: {split}: {done['read'][split]:,} rows read, dropped {by}; {rows[split]:,} kept")
    if done["empty"]:
        log(f"data: {done['empty']:,} rows have an empty problem or solution; kept, as in the published data")
    if found := control.sentence(done["control_tokens"]):
        log(f"data: {found}")


if __name__ == "__main__":
    run(main)
