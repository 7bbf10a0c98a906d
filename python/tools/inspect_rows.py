"""Show rows as the trainer of the recipe's engine sees them, and judge what makes reproductions fail.

    python python/tools/inspect_rows.py tiny 1 --work work              # the first three rows
    python python/tools/inspect_rows.py tiny 1 --work work --row 17     # one row, and the batch that begins with it or,
                                                                  # where the file's order is kept, its step
    python python/tools/inspect_rows.py tiny 1 --work work --row 17 --full

Per row: its text and token ids, which of them carry loss, which are special, what its length does to it. Of a
batch: padding or packing, boundaries and position ids. Then a verdict each, ok, WARNING or WRONG, on files, BOS, end
of turn, EOS, template, system message, RoPE and length. Reads the rows that training reads
(WORK/data/<dataset>/round<N>/all.jsonl, or what the recipe's SCHEMA has in its place) and the model that it starts
from; writes nothing. Exit status 1 when something is WRONG. NO_COLOR=1 gives brackets on a terminal, too.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

import io
import os
from collections.abc import Callable

from sft.engines.registry import part
from sft.inspect import verdicts
from sft.inspect.batch import in_order, show_batch
from sft.inspect.rows import BATCH, SHOWN, STEP, Span, load_tokenizer, longest_lines, paint, read_row, show_row
from sft.inspect.verdicts import WRONG, Verdict
from sft.lib.done import read_done
from sft.lib.errors import Failure, run, usage, without_torch
from sft.lib.files import read_json
from sft.lib.progress import log
from sft.recipe.command import open_run, run_parser
from sft.recipe.keys import positive
from sft.rows.chat import ENDS
from sft.rows.dataset import SftDataset

# --- all of it -------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--row", help="the number of the row, from 1 (default: the first three)")
    parser.add_argument("--full", action="store_true", help="leave nothing out")
    args, recipe, paths = open_run(parser)
    again = f"MODEL={args.model} ROUND={args.round}"
    engine, path = recipe["ENGINE"], paths.rows
    try:
        rule = part(engine, "row").RULE
    except ModuleNotFoundError:
        other = f"ROUND={recipe['DATA_ROUND']}, the same rows" if "DATA_ROUND" in recipe else "round 1"
        raise Failure(
            f"what engine {engine} makes of a row is not shown here; inspect {other} on engine automodel"
        ) from None
    if args.row is not None and not positive(args.row):
        usage(f"ROW={args.row} is not a row's number; count from 1")
    read_done(paths.data, f"run: make data {again}")
    read_done(paths.start, f"run: make model {again}" if paths.start == paths.base else "finish round 1 first")
    if not path.is_file():
        raise Failure(f"{path} is not there; make the data as JSONL of input and output, which training reads")
    if path.stat().st_size > 1 << 30:
        log(f"inspect: finding the lines of {path.stat().st_size / 1e9:.1f} GB, as training does when it starts")
    without_torch()
    tokenizer = load_tokenizer(paths.start)
    dataset = SftDataset(str(path), recipe["SEQ_LEN"], ENDS[recipe["CHAT"]], tokenizer)
    total = len(dataset)
    if not total:
        raise Failure(f"{path} has no rows; run: make data {again}")
    if args.row and int(args.row) > total:
        usage(f"ROW={args.row} is beyond the {total:,} rows of {path}; give a smaller one")

    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a lone surrogate is shown, not stumbled over
        sys.stdout.reconfigure(errors="backslashreplace")
    first = int(args.row) - 1 if args.row else 0
    batch = recipe["GLOBAL_BATCH"]
    # Where the order is kept, the step that the row is of, whole: its bins depend on all of them.
    start = first // batch * batch if in_order(recipe) else first
    batch = min(batch, STEP if in_order(recipe) and recipe["PACKING"] else BATCH)
    places = sorted({*range(first, min(first + SHOWN, total)), *range(start, min(start + batch, total))})
    read = {index: read_row(dataset, engine, index) for index in places}
    rows = list(read.values())
    shown_ = [read[index] for index in places if index >= first][: 1 if args.row else SHOWN]
    members = [read[index] for index in places if start <= index < start + batch]
    long = (read_row(dataset, engine, index) for index in longest_lines(dataset))
    longest = max([*rows, *long], key=lambda row: row.tokens)

    print(f"{args.model}, round {args.round}: {path}")
    print(f"tokenizer: {paths.start}")
    print(f"engine: {engine}; prompt and answer tokenized apart, {rule}")
    legend: list[Span] = [("carries loss", True, "text"), (", ", False, "text"), ("special token", False, "special")]
    print(f"marks: {paint(legend, colours)}")
    for row in shown_:
        show_row(row, total, dataset, args.full, colours)
    show_batch(recipe, members, tokenizer, args.full, first + 1)

    config = read_json(paths.start / "config.json")
    judges: dict[str, Callable[[], Verdict]] = {
        "files": lambda: verdicts.judge_files({"data": paths.data, "model": paths.start}),
        "BOS": lambda: verdicts.judge_bos(tokenizer, config, rows),
        "end of turn": lambda: verdicts.judge_end(tokenizer, rows, dataset.end_of_turn),
        "EOS": lambda: verdicts.judge_eos(tokenizer, paths.start, config, dataset.end_of_turn),
        "trained": lambda: verdicts.judge_trained(tokenizer, paths.start, recipe, dataset.end_of_turn),
        "template": lambda: verdicts.judge_template(tokenizer, rows, recipe["CHAT"]),
        "system message": lambda: verdicts.judge_system(tokenizer, rows, recipe["CHAT"]),
        "RoPE": lambda: verdicts.judge_rope(recipe, paths.start, longest, again),
        "length": lambda: verdicts.judge_length(recipe, rows, longest),
    }
    print(f"\nverdicts, of rows {places[0] + 1:,}..{places[-1] + 1:,} and the longest of {total:,}")
    wrong = []
    for subject, judge in judges.items():
        level, sentence = judge()
        print(f"  {level:7}  {subject}: {sentence}")
        wrong += [subject] if level == WRONG else []
    sys.stdout.flush()
    if wrong:
        raise Failure(f"WRONG: {', '.join(wrong)}; do what the lines above say, and inspect again")


if __name__ == "__main__":
    run(main)
