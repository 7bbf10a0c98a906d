"""Format a round's training data: parquet or JSONL in OpenMathReasoning's schema -> input/output JSONL.

    python python/data.py qwen7b 1 --work /lustre/me/sft --source /lustre/me/OpenMathReasoning

Writes cot.jsonl, tir.jsonl, genselect.jsonl and all.jsonl (their mix, shuffled with SEED) and DONE below
WORK/data/<dataset>/round<N>/. The prompts and their rendering are those of the published script
(NeMo-Skills 8b18f39 docs/releases/openmathreasoning/training.md:18-50), but for one thing: the tir counter is the
whole number after "Remaining code executions: ", of which the script takes the first digit.
"""

import itertools
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import recipe as recipes
import tiny
from lib import Failure, Progress, describe, is_done, log, new_folder, read_jsonl, run, sha256, write_done

# NeMo-Skills 8b18f39 nemo_skills/prompt/config/{generic/math,openmath/tir}.yaml; genselect comes formatted.
PROMPTS = {
    "cot": "Solve the following math problem. Make sure to put the answer (and only answer) inside \\boxed{{}}.\n\n"
    "{problem}",
    "tir": "Solve the following math problem, integrating natural language reasoning with Python code executions.\n"
    "You may perform up to {total_code_executions} Python code calls to assist your reasoning.\n"
    "Make sure to put the answer (and only answer) inside \\boxed{{}}.\n\n"
    "{problem}",
    "genselect": "{problem}",
}
END_OF_TURN = "<|im_end|>"
REMAINING = re.compile(r"Remaining code executions: (\d+)")
BUCKET_BYTES = 256 << 20  # of rows that are shuffled in memory at a time


def chatml(user: str) -> str:
    """The prompt as Qwen2.5's chat template renders it with an explicit, empty system message."""
    return f"<|im_start|>system\n{END_OF_TURN}\n<|im_start|>user\n{user}{END_OF_TURN}\n<|im_start|>assistant\n"


def code_executions(solution: str) -> int:
    """The call budget that a tir solution was generated under: the first remaining count plus the call it follows.

    Raises ValueError when the text says neither how many remain nor that none do.
    """
    first = REMAINING.search(solution)
    if first:
        return int(first[1]) + 1
    if "You have run out of code executions!" in solution:
        return 1
    raise ValueError("tir solution names no number of remaining code executions")


def format_row(split: str, row: dict[str, Any]) -> dict[str, str]:
    """{input, output} of a source row. Raises ValueError naming a missing or empty field."""
    for field in ("problem", "generated_solution"):
        if not isinstance(row.get(field), str) or not row[field]:
            raise ValueError(f"no text in field {field!r}")
    fields = {"problem": row["problem"]}
    if split == "tir":
        fields["total_code_executions"] = str(code_executions(row["generated_solution"]))
    return {
        "input": chatml(PROMPTS[split].format(**fields)),
        "output": f"{row['generated_solution']}{END_OF_TURN}\n",
    }


def source_files(source: Path, split: str) -> list[Path]:
    """The parquet or JSONL files of a split: those whose name starts with it, also below data/ as the hub has them."""
    folders = [source, source / "data"]
    found = sorted(
        p for f in folders if f.is_dir() for p in f.iterdir() if re.fullmatch(rf"{split}[-.].*(parquet|jsonl)", p.name)
    )
    if not found:
        raise Failure(f"{source} has no {split}-*.parquet or {split}*.jsonl; set DATA_SRC to the folder that has")
    return found


def source_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a parquet or JSONL file, one batch in memory at a time; a broken file is named."""
    if path.suffix == ".jsonl":
        yield from read_jsonl(path)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1000, columns=["problem", "generated_solution"]):
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise Failure(f"{path}: cannot be read as parquet ({str(error).splitlines()[0]}); fetch it again") from None


def format_split(source: Path, split: str, target: Path) -> int:
    """Write a split's input/output rows in source order; returns their number."""
    written = 0
    progress = Progress(f"{split} rows")
    with open(target, "wb") as out:
        for path in source_files(source, split):
            for n, row in enumerate(source_rows(path), 1):
                try:
                    line = json.dumps(format_row(split, row), ensure_ascii=False).encode()
                except ValueError as error:  # also half a surrogate pair, which is no text
                    raise Failure(f"{path}: row {n}: {error}; mend or remove it") from None
                out.write(line + b"\n")
                written += 1
                progress.show(written)
    if not written:
        raise Failure(f"{source}: split {split} has no rows; fetch it again")
    return written


def shuffle(inputs: list[Path], target: Path, seed: int) -> None:
    """Write the lines of `inputs` in an order that depends only on them and on `seed`, in bounded memory.

    Every line goes to a bucket at random, then every bucket is shuffled: any order is as likely as any other.
    """
    draw = random.Random(seed)
    size = sum(path.stat().st_size for path in inputs)
    names = [target.with_name(f"bucket{i}") for i in range(size // BUCKET_BYTES + 1)]
    buckets = [open(name, "wb") for name in names]
    try:
        for path in inputs:
            with open(path, "rb") as file:
                for line in file:
                    buckets[draw.randrange(len(buckets))].write(line)
    finally:
        for bucket in buckets:
            bucket.close()
    with open(target, "wb") as out:
        for name in names:
            lines = name.read_bytes().splitlines(keepends=True)
            draw.shuffle(lines)
            out.writelines(lines)
            name.unlink()


def source_folder(recipe: recipes.Recipe, paths: recipes.Paths, given: Path | None) -> Path:
    """Where the source files are: the folder given, else generated, else downloaded, at most once."""
    if given:
        if not given.is_dir():
            raise Failure(f"DATA_SRC={given} is not a folder; give the one that holds the parquet files")
        return given
    source = paths.dataset / "source"
    splits = recipe["SPLITS"].split(",")
    if recipe["DATASET_SOURCE"] == "hub":
        from model import download

        patterns = [f"{prefix}{split}-*" for split in splits for prefix in ("", "data/")]
        download(recipe["DATASET"], recipe["DATASET_REVISION"], source, "dataset", patterns)
    else:
        seed, keys = int(recipe["SEED"]), recipes.stage_keys(recipe, "data")
        if not is_done(source, keys, {}):
            with new_folder(source) as part:
                tiny.write_dataset(part, splits, int(recipe["GENERATE_PROBLEMS"]), seed)
                held_out = tiny.write_eval_set(part / "test.jsonl", seed)
                write_done(part, keys, {}, held_out=held_out)
    return source


def main() -> None:
    parser = recipes.parser(__doc__)
    parser.add_argument("--source", type=Path, help="a folder of parquet or JSONL files, in place of the download")
    args, recipe, paths = recipes.open_run(parser)
    if recipe["FILTER_SPLITS"] != "none":
        raise Failure(f"round {args.round} filters its rows, which this version cannot do yet; use ROUND=1")
    keys = recipes.stage_keys(recipe, "data")
    source = source_folder(recipe, paths, args.source)
    splits = recipe["SPLITS"].split(",")
    inputs = {path.name: sha256(path) for split in splits for path in source_files(source, split)}
    if is_done(paths.data, keys, inputs):
        log(f"data: {paths.data} is already there")
        return

    with new_folder(paths.data) as part:
        rows = {split: format_split(source, split, part / f"{split}.jsonl") for split in splits}
        shuffle([part / f"{split}.jsonl" for split in splits], part / "all.jsonl", int(recipe["SEED"]))
        rows["all"] = sum(rows.values())
        if rows["all"] < int(recipe["GLOBAL_BATCH"]):
            raise Failure(f"{rows['all']} rows do not fill one GLOBAL_BATCH={recipe['GLOBAL_BATCH']}; add data")
        write_done(part, keys, inputs, rows=rows, **describe(part))
    first = next(itertools.islice(read_jsonl(paths.data / "all.jsonl"), 1))
    log(f"data: {rows['all']:,} rows ({', '.join(f'{s} {rows[s]:,}' for s in splits)}) in {paths.data}")
    log(f"data: the first begins {first['input'][:60]!r}")


if __name__ == "__main__":
    run(main)
