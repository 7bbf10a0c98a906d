"""Curate the Llama-Nemotron data for reasoning on and off: filter, hold out, sort by length, interleave.

Writes below WORK/data/<dataset>/round<N>/: training.jsonl ({"input", "output", "completion_token_count"}, rendered),
messages.jsonl (the same rows in the same order, as messages), validation.jsonl where the recipe holds rows out, and
DONE with what each filter dropped. rules.py has the rules and what differs between the variants.

Worker processes filter a part of the input each and write its rows, sorted, as a shard. Of all rows only some 26 bytes
each are then held, to drop copies and to draw what is held out and taken; an output's rows take some 40 bytes each
while it is put together from the shards. A row's place depends on the
rows, on the seed and on nothing else. An interrupted run resumes at the first unfinished shard.
"""

import argparse
import dataclasses
import shutil
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from sft.data.nemotron.fetch import (
    LISTED,
    evaluation_files,
    language_model,
    source_files,
    source_folder,
    tokenizer_folder,
)
from sft.data.nemotron.order import Output, write_output
from sft.data.nemotron.rules import FIELDS, FILTERS, MODES, BadRow, Filters, Kept, identities, load_filters, read_row
from sft.data.nemotron.select import TENTHS, Selection, on_before, select
from sft.data.nemotron.shards import INDEX, TRAINING, VALIDATION, Curated, Job
from sft.data.nemotron.template import Rules
from sft.data.parts import finish, make_all, shard_file, write_all
from sft.lib.done import code_hash, is_done, resumable_folder, write_done
from sft.lib.errors import Failure
from sft.lib.progress import log, ratio
from sft.lib.workers import Workers, cores
from sft.recipe.keys import Recipe, stage_keys
from sft.recipe.paths import Paths
from sft.rows import control
from sft.rows.files import Part, bad_row, batches, check_unchanged, cut, inspect_all
from sft.rows.spool import Written, block_size

# --- what a worker does ------------------------------------------------------------------------------------------


load_once = cache(load_filters)


def filters(job: Job) -> Filters:
    return load_once(job.rules, job.tokenizer, job.language, job.evaluation)


def probe(job: Job) -> dict[str, str]:
    """Load what the filters need, and say what it was. In a worker, for the memory that it takes."""
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
                except TypeError as error:  # a lone surrogate where the template does not render it
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
    with open(shard_file(job.folder, part.name, "training"), "wb") as file:
        file.writelines(row[3] for row in ordered)
    with open(shard_file(job.folder, part.name, "messages"), "wb") as file:
        file.writelines(row[4] for row in ordered)
    sizes = {output: int(index[output].sum(dtype=np.int64)) for output in ("training", "messages")}
    left = {mode: len(found) for mode, found in made.items()}
    files = sizes | {"index": index.nbytes}
    return finish(job.folder, Curated(part.name, files, read, dropped, left, empty, dict(used), tokens))


def make(args: argparse.Namespace, recipe: Recipe, paths: Paths) -> None:
    """What `make data` does for the Llama-Nemotron data. Raises Failure."""
    keys, seed = stage_keys(recipe, "data"), recipe["SEED"]
    tokenizer = tokenizer_folder(paths, args.tokenizer, f"MODEL={args.model} ROUND={args.round}")
    source, revision = source_folder(recipe, paths, args.source)
    evaluation = evaluation_files(recipe, paths)  # generated data brings its own
    found = source_files(source, recipe["CURATE_FILES"])
    language = language_model(paths, source, args.lang_model, args.lang_model_url, args.lang_model_sha256)
    rules = Rules(
        recipe["CURATE_USED_IN"],
        recipe["CURATE_MAX_TOKENS"],
        recipe["CURATE_MAX_COMPLETION"],
        recipe["VARIANT"] == "published",
    )
    job = Job(paths.data, seed, rules, tokenizer, language, evaluation)
    with Workers(cores(args.workers)) as workers:
        inputs = next(found for _, found in workers.run(probe, [job]))
        sources = inspect_all(workers, [(path, "rows") for path in found], {"rows": list(FIELDS)})
        inputs |= {str(s.path.relative_to(source)): s.sha256 for s in sources}
        if is_done(paths.data, keys, inputs):
            log(f"data: {paths.data} is already there")
            return
        if paths.data.exists():
            raise Failure(f"{paths.data} exists and is not ours to write; move it away or set another WORK")
        block = block_size(sum(s.text for s in sources))
        parts = cut(sources, block)
        identity = {"recipe": keys, "inputs": inputs, "code": code_hash("lib", "rows", "data")}
        with resumable_folder(paths.data, identity) as folder:
            shards = folder / "shards"
            shards.mkdir(exist_ok=True)
            job = dataclasses.replace(job, folder=shards)
            made = make_all(workers, curate_part, job, parts, Curated, lambda shard: sum(shard.read.values()))
            chosen = select(job, made, recipe, source)
            chunk = recipe["CURATE_CHUNK"]
            names = [("training", "training", TRAINING), ("messages", "messages", TRAINING)]
            if sum(chosen.validation.values()):
                names.append(("validation", "training", VALIDATION))
            outputs = [Output(folder / f"{n}.jsonl", form, state, chunk, made, shards) for n, form, state in names]
            total = sum(shard.files[kind] for shard in made for kind in ("training", "messages"))
            made_of = write_all(workers, write_output, outputs, total)
            written = {output.target.name: file for output, file in made_of}
            for output in outputs:
                file = written[output.target.name]
                want = sum((chosen.training if output.state == TRAINING else chosen.validation).values())
                if file.rows != want:
                    raise Failure(f"{output.target.name}: {file.rows} rows written of {want}; report it")
            shutil.rmtree(shards)
            workers.close()
            done = write_done(folder, keys, inputs, **facts(made, parts, chosen, chunk, source, revision, written))
    summary(done, paths.data)
    if done["rows"]["all"] < recipe["GLOBAL_BATCH"]:
        log(f"data: that does not fill one GLOBAL_BATCH={recipe['GLOBAL_BATCH']}: training will refuse it")


def facts(
    made: list[Curated],
    parts: list[Part],
    chosen: Selection,
    chunk: int,
    source: Path,
    revision: str,
    written: dict[str, Written],
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
        # Per tenth of training.jsonl: rows, and how many of them have reasoning on.
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
