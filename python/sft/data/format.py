"""OpenMathReasoning's data: parquet or JSONL in its schema -> shuffled input/output rows.

Writes cot.jsonl, tir.jsonl, genselect.jsonl (in source order), all.jsonl (their rows, shuffled with SEED) and DONE
below WORK/data/<dataset>/round<N>/. openmath.py has the rows' rules, rows/files.py reads the files,
rows/spool.py gives the rows their order.

Worker processes read, filter and format a part of the input each and write it as a shard; then the shards are merged.
Memory is a few blocks of rows a worker, and some 40 bytes a row while all are shuffled. An interrupted run resumes
at the first unfinished shard.
"""

import argparse
import shutil
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft.data import tiny
from sft.data.openmath import Filter, code_executions, ending, frame, text_of
from sft.data.output import Formatted, Job, merge_all
from sft.data.parts import finish, make_all, shard_file
from sft.lib.done import code_hash, is_done, new_folder, read_done, resumable_folder, write_done
from sft.lib.errors import Failure, usage
from sft.lib.files import sha256
from sft.lib.progress import log, ratio
from sft.lib.workers import Workers, cores
from sft.recipe.keys import Recipe, stage_keys
from sft.recipe.paths import Paths
from sft.rows import control
from sft.rows.files import TEXTS, Batch, Choose, Part, bad_row, batches, check_unchanged, cut, inspect_all, source_files
from sft.rows.spool import block_size

RULES = ("problem_source", "pass_rate", "length")  # by which the filter drops a row, in their order


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
        except (ValueError, TypeError) as error:  # also a lone surrogate, which is not text
            return bad_row(part, numbers[n], str(error))
    raise AssertionError("every row of the batch can be formatted alone")


def format_part(task: tuple[Job, Part]) -> Formatted:
    """Read, filter and format a part, and write it as a shard with a record beside it. Raises Failure."""
    job, part = task
    check_unchanged(part)
    rules = job.filter if job.filter and part.split in job.filter.splits else None
    columns = list(dict.fromkeys([*TEXTS, *job.columns]))
    dropped = dict.fromkeys(RULES if rules else (), 0)
    if rules:
        rules.load()
    found = batches(part, columns, rules.COLUMNS, choose_by(rules, part, dropped)) if rules else batches(part, columns)
    lengths = array("I")
    empty = 0
    tokens: control.Counts = {}
    with open(shard_file(job.folder, part.name, "rows"), "wb") as out:
        for numbers, batch in found:
            if rules:
                before = len(numbers)
                numbers, batch = drop_short(rules, part, numbers, batch)
                dropped["length"] += before - len(numbers)
            try:
                fresh = format_lines(job, part.split, batch)
            except (ValueError, TypeError, AttributeError):
                raise first_fault(job, part, numbers, batch) from None
            empty += sum(not all(pair) for pair in zip(*(batch[name] for name in TEXTS), strict=True))
            for kind, name in zip(("problem", "answer"), TEXTS, strict=True):
                control.add(tokens, kind, batch[name])
            lengths.extend(map(len, fresh))
            out.writelines(fresh)
    shard_file(job.folder, part.name, "lengths").write_bytes(lengths.tobytes())
    files, rows = {"rows": sum(lengths), "lengths": 4 * len(lengths)}, len(lengths)
    return finish(
        job.folder,
        Formatted(part.name, files, part.split, rows + sum(dropped.values()), rows, dropped, empty, tokens),
    )


# --- the stage ---------------------------------------------------------------------------------------------------


def source_folder(recipe: Recipe, paths: Paths, given: Path | None) -> tuple[Path, str]:
    """(folder of the source files, revision): the folder given, else generated, else downloaded, at most once."""
    if given:
        if not given.is_dir():
            raise Failure(f"DATA_SRC={given} is not a folder; give the one that holds the parquet files")
        return given, "local"
    source = paths.dataset / "source"
    splits = recipe["SPLITS"]
    if recipe["DATASET_SOURCE"] == "hub":
        from sft.lib.hub import download

        patterns = [f"{prefix}{split}-*" for split in splits for prefix in ("", "data/")]
        return source, download(recipe["DATASET"], recipe["DATASET_REVISION"], source, "dataset", patterns)
    seed, keys = recipe["SEED"], stage_keys(recipe, "data")
    if not is_done(source, keys, {}):
        with new_folder(source) as part:
            tiny.write_dataset(part, splits, recipe["GENERATE_PROBLEMS"], seed)
            held_out = tiny.write_eval_set(part / "test.jsonl", seed)
            write_done(part, keys, {}, held_out=held_out)
    return source, "generated"


def filter_of(recipe: Recipe, paths: Paths, given: Path | None) -> Filter | None:
    """The recipe's filter, with its tokenizer at hand: in the folder given, else downloaded, at most once."""
    if not recipe["FILTER_SPLITS"]:
        return None
    repo = recipe["FILTER_TOKENIZER"]
    folder = given or paths.work / "tokenizers" / repo.split("/")[-1]
    if not given:
        from sft.lib.hub import download

        download(repo, recipe["FILTER_TOKENIZER_REVISION"], folder, "model", ["tokenizer*.json"], "TOKENIZER")
    if not (folder / "tokenizer.json").is_file():
        raise Failure(f"{folder} has no tokenizer.json; set TOKENIZER to a folder with that of {repo}")
    return Filter(
        recipe["FILTER_SPLITS"],
        recipe["FILTER_SOURCES"],
        recipe["FILTER_MAX_PASS_RATE"],
        recipe["FILTER_MIN_TOKENS"],
        folder,
    )


def check_room(folder: Path, need: int) -> None:
    """Refuse to begin what the disk cannot hold. need: bytes."""
    free = shutil.disk_usage(folder).free
    if need > free:
        raise Failure(
            f"{folder} has {free / 1e9:.1f} GB free, and {need / 1e9:.1f} GB are needed while the rows are shuffled; "
            "free some, or set WORK to another disk"
        )


def make(args: argparse.Namespace, recipe: Recipe, paths: Paths) -> None:
    """What `make data` does for OpenMathReasoning. Raises Failure."""
    if recipe["DATASET_SOURCE"] == "prepared":
        done = read_done(paths.data, f"run: make sft-data NAME={paths.dataset.name} INPUT='...'")
        log(f"data: {done['rows']['all']:,} rows in {paths.data}, made by sft-data")
        return
    columns = [c for c in args.columns.split(",") if c]
    for taken in {"input", "output", "messages", *TEXTS} & set(columns):
        usage(f"column {taken} is a part of every row already; remove it from DATA_COLUMNS")
    options = {"DATA_FORMAT": args.format, "DATA_FORM": args.form, "DATA_COLUMNS": ",".join(columns)}
    keys = stage_keys(recipe, "data") | options
    splits = recipe["SPLITS"]
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
        block = block_size(text)
        parts = cut(sources, block)
        identity = {"recipe": keys, "inputs": inputs, "code": code_hash("lib", "rows", "data")}
        with resumable_folder(paths.data, identity) as folder:
            shards = folder / "shards"
            shards.mkdir(exist_ok=True)
            if not rules and not any(shards.iterdir()):
                check_room(folder, 3 * text)  # the shards, the splits and their mix
            job = Job(shards, recipe["SEED"], block, text // block + 1, args.form, columns, rules)
            made = make_all(workers, format_part, job, parts, Formatted, lambda shard: shard.read)
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
    if rows["all"] < recipe["GLOBAL_BATCH"]:
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
