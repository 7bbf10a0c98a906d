"""Report on a recipe's training data: rows, token lengths, steps per epoch, with and without packing.

    python python/tools/report.py qwen7b 1 --work /lustre/me/sft

Writes report.txt, DONE (the same as JSON) and lengths.png below WORK/runs/<model>/round<N>/report/. Lengths are those
of the trainer: prompt and answer tokenized apart with the base model's tokenizer. Of more than --rows rows a random
sample is counted, and estimates carry their standard error; the longest rows are always counted.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

import math
import random
import shutil
from pathlib import Path
from typing import Any

from sft.lib.done import is_done, new_folder, write_done
from sft.lib.errors import Failure, run
from sft.lib.progress import Progress, log, ratio
from sft.lib.workers import Workers, cores
from sft.recipe.command import open_run, run_parser
from sft.recipe.engines import engine_of
from sft.recipe.keys import Recipe
from sft.recipe.paths import read_data
from sft.rows.chat import ENDS
from sft.rows.dataset import line_offsets
from sft.rows.lengths import TASK_ROWS, Lengths, count, counter, figures

SAMPLE = 2000


def choose(path: Path, done: dict[str, Any], most: int, seed: int) -> tuple[list[int], bool]:
    """(offsets of the rows to count, whether those are all rows).

    The rows of a shuffled file are in random order: its first are a sample. Of another file the rows are drawn.
    """
    rows = done["rows"]["all"]
    if rows > most and done.get("shuffled"):
        starts, at = [], 0
        with open(path, "rb") as file:
            for _ in range(most):
                starts.append(at)
                at += len(file.readline())
        return starts, False
    offsets = line_offsets(path)
    if rows <= most:
        return [int(o) for o in offsets], True
    return [int(offsets[i]) for i in sorted(random.Random(seed).sample(range(rows), most))], False


def render(done: dict[str, Any], report: dict[str, Any], recipe: Recipe) -> str:
    """The human-readable report."""
    t, about = report["tokens"], "" if report["whole"] else "about "
    sample = "every row" if report["whole"] else f"a random sample of {report['counted']:,}"
    lines = [f"rows        {report['rows']:>15,}  in the mix"]
    if "along" in done:
        lines += curated(done)
    for split, read in done.get("read", {}).items() if "along" not in done else ():
        dropped = done["dropped"].get(split, {})
        gone = "".join(f", {n:,} dropped by {rule}" for rule, n in dropped.items())
        lines.append(f"  {split:<10}{done['rows'][split]:>15,}  of {read:,} read{gone}")
    for rule, n in done.get("dropped", {}).items():
        if isinstance(n, int):
            lines.append(f"  {rule}: {n:,} dropped")
    for name, n in done.get("control_tokens", {}).items():
        kind, _, token = name.partition(" ")
        lines.append(f"  {n:,} {kind}s hold {token}, which trainer and server read as their own")
    lines += [
        f"tokens      {t['total']:>15,}  {about}± {report['standard_error']:.1%}, from {sample}",
        f"  with loss {t['supervised']:>15,}  {about}{ratio(t['supervised'], t['total'], '.1%')} of them",
        f"  a row     {t['mean']:>15,.0f}  p50 {t['p50']:,}, p90 {t['p90']:,}, p99 {t['p99']:,}, longest {t['max']:,}",
        f"too long    {report['over_seq_len']:>15.2%}  of rows for SEQ_LEN={report['seq_len']:,}; they carry no loss",
        f"steps       {report['steps_per_epoch']:>15,}  an epoch of GLOBAL_BATCH={report['global_batch']:,} rows, "
        f"{report['rows_left_over']:,} left over; {recipe['STEPS']:,} steps are {report['epochs']:.2f} epochs",
        f"packed      {report['bins_per_batch']:>15,}  sequences of {report['seq_len']:,} hold such a batch, "
        f"{report['bin_fill']:.0%} full",
        f"            {report['steps_per_epoch_packed']:>15,}  steps per epoch where a step counts packed sequences "
        "(here it counts rows)",
        "",
    ]
    most = max(report["histogram"]["rows"])
    for start, n in zip(report["histogram"]["from"], report["histogram"]["rows"], strict=True):
        lines.append(f"{start:>8,} {'#' * math.ceil(50 * n / most) if most else ''} {n:,}".rstrip())
    return "\n".join(lines) + "\n"


def curated(done: dict[str, Any]) -> list[str]:
    """What the curation made of rows with reasoning on and off, and how the two lie along the file, by tenths."""
    lines = []
    for mode, read in done["read"].items():
        rest = f"{done['validation'][mode]:,} held out, {done['left_out'][mode]:,} not taken"
        lines.append(f"  {mode:<10}{done['rows'][mode]:>15,}  of {read:,} read; {rest}")
    modes = list(done["dropped"])
    lines.append(f"dropped     {'':>15}  " + "".join(f"{mode:>12}" for mode in modes))
    for name in done["dropped"][modes[0]]:
        lines.append(f"  by {name:<24}" + "".join(f"{done['dropped'][mode][name]:>12,}" for mode in modes))
    shares = " ".join(ratio(part["on"], part["rows"], ".0%") for part in done["along"])
    return [*lines, f"on          {shares}  of the rows, by tenths of the file"]


def plot(path: Path, found: Lengths, seq_len: int, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5))
    axes.hist(found.total, bins=60)
    axes.axvline(seq_len, color="black", linestyle="--", label=f"SEQ_LEN {seq_len:,}")
    axes.set(xlabel="tokens of a row", ylabel="rows counted", title=title, xlim=(0, None))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--rows", type=int, default=SAMPLE, help=f"rows to count, 0: all (default: {SAMPLE:,})")
    parser.add_argument("--tokenizer", type=Path, help="folder of the tokenizer, in place of the base model's")
    parser.add_argument(
        "--if-possible", action="store_true", help="where there is no tokenizer yet, say so and succeed"
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    args, recipe, paths = open_run(parser)
    again = f"MODEL={args.model} ROUND={args.round}"
    path = paths.rows
    try:
        done = read_data(paths, again)
    except Failure as failure:
        if not args.if_possible:
            raise
        log(f"report: none: {failure}")
        return
    tokenizer = args.tokenizer or (paths.start if (paths.start / "tokenizer.json").is_file() else paths.base)
    if not (tokenizer / "tokenizer.json").is_file():
        if args.if_possible:
            log(f"report: no tokenizer yet; for token lengths run: make model {again}, then make report {again}")
            return
        raise Failure(f"{tokenizer} has no tokenizer.json; run: make model {again}")
    most = args.rows or done["rows"]["all"]
    names = ("SEQ_LEN", "GLOBAL_BATCH", "STEPS", "ENGINE", "TP", "CP", "CHAT", "SEED")
    keys = {k: recipe["text"][k] for k in names} | {"REPORT_ROWS": str(args.rows)}
    inputs = {"data": done["outputs"][paths.rows.name], "tokenizer": counter(tokenizer).sha256}
    if (paths.report / "DONE").is_file():
        try:
            if is_done(paths.report, keys, inputs):
                log(f"report: {paths.report} is already there")
                print((paths.report / "report.txt").read_text(encoding="utf-8"), end="")
                return
        except Failure:  # of other data or settings: a report is cheap, and only the present one is of use
            shutil.rmtree(paths.report)

    offsets, whole = choose(path, done, most, recipe["SEED"])
    # nemo-automodel leaves out what the template writes after the end of turn.
    end = ENDS[recipe["CHAT"]] if engine_of(recipe).adds_end else ""
    tasks = [(path, tokenizer, end, offsets[i : i + TASK_ROWS]) for i in range(0, len(offsets), TASK_ROWS)]
    progress, counted = Progress("report: rows counted", len(offsets)), 0
    results: dict[int, Lengths] = {}
    with Workers(cores(args.workers)) as workers:
        for task, lengths in workers.run(count, tasks):
            results[task[3][0]] = lengths
            counted += len(lengths.prompt)
            progress.show(counted)
        longest = [row["offset"] for row in done.get("longest", [])]
        extreme = count((path, tokenizer, end, longest)).total if longest and not whole else []
    found = Lengths([], [])
    for first in sorted(results):
        found.prompt += results[first].prompt
        found.answer += results[first].answer
    report = figures(recipe, done["rows"]["all"], found, whole, recipe["SEED"])
    report["tokens"]["max"] = max(report["tokens"]["max"], *extreme, 0)
    text = render(done, report, recipe)
    with new_folder(paths.report) as part:
        (part / "report.txt").write_text(text, encoding="utf-8")
        plot(part / "lengths.png", found, recipe["SEQ_LEN"], f"{args.model}, round {args.round}")
        write_done(part, keys, inputs, report=report)
    print(text, end="")
    log(f"report: {paths.report}")


if __name__ == "__main__":
    run(main)
