"""Report on a recipe's training data: rows, token lengths, steps per epoch, with and without packing.

    python python/report.py qwen7b 1 --work /lustre/me/sft

Writes report.txt, DONE (the same as JSON) and lengths.png below WORK/runs/<model>/round<N>/report/. Lengths are those
of the trainer: prompt and answer tokenized apart with the base model's tokenizer. Of more than --rows rows a random
sample is counted, and estimates carry their standard error; the longest rows are always counted.
"""

import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import recipe as recipes
from dataset import fill, line_offsets, pack
from lib import (
    Failure,
    Progress,
    is_done,
    log,
    new_folder,
    ratio,
    run,
    write_done,
)
from openmath import ENDS
from parallel import Workers, cores

SAMPLE = 2000
TASK_ROWS = 50


@dataclass
class Lengths:
    """Tokens of some rows: of the prompt, and of the answer, which carry loss."""

    prompt: list[int]
    answer: list[int]

    @property
    def total(self) -> list[int]:
        return [p + a for p, a in zip(self.prompt, self.answer, strict=True)]


@cache
def counter(folder: Path) -> Any:
    from tokens import TokenCounter

    return TokenCounter(folder)


def count(task: tuple[Path, Path, str, list[int]]) -> Lengths:
    """Lengths of the rows at some offsets of a JSONL file. Raises Failure naming the row.

    task: file, tokenizer, the token after which the engine cuts an answer ("": it does not), offsets in bytes.
    """
    import orjson

    path, tokenizer, end, offsets = task
    tokens, found = counter(tokenizer), Lengths([], [])
    with open(path, "rb") as file:
        for offset in offsets:
            file.seek(offset)
            try:
                row = orjson.loads(file.readline())
                prompt, answer = row["input"], row["output"]
                if end:
                    answer = answer[: answer.rindex(end) + len(end)]
                found.prompt.append(tokens.count(prompt))
                found.answer.append(tokens.count(answer))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                why = f"{type(error).__name__}: {error}"
                raise Failure(
                    f"{path}: the row at byte {offset} is no input and output ({why}); run make data again"
                ) from None
    return found


def choose(path: Path, done: dict[str, Any], most: int, seed: int) -> tuple[list[int], bool]:
    """(offsets of the rows to count, whether those are all rows).

    The rows of a shuffled file are in random order: its first are a sample. Of another file the rows are drawn.
    """
    rows = done["rows"]["all"]
    if rows > most and done.get("shuffled"):
        offsets, at = [], 0
        with open(path, "rb") as file:
            for _ in range(most):
                offsets.append(at)
                at += len(file.readline())
        return offsets, False
    offsets = line_offsets(path)
    if rows <= most:
        return [int(o) for o in offsets], True
    return [int(offsets[i]) for i in sorted(random.Random(seed).sample(range(rows), most))], False


def percentile(ordered: Sequence[int], share: float) -> int:
    """The smallest value that at least `share` of the values do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def too_long(engine: str, tokens: int, seq_len: int) -> bool:
    """Whether a row of so many tokens carries no loss; dataset.py has the rule of each engine."""
    return tokens >= seq_len if engine == "nemo-rl" else tokens > seq_len


def figures(recipe: recipes.Recipe, rows: int, found: Lengths, whole: bool, seed: int) -> dict[str, Any]:
    """What the lengths say of all `rows` rows. Shares are between 0 and 1, lengths are tokens."""
    seq_len, batch, engine = int(recipe["SEQ_LEN"]), int(recipe["GLOBAL_BATCH"]), recipe["ENGINE"]
    total = found.total
    ordered, n = sorted(total), len(total)
    mean = sum(total) / n
    spread = math.sqrt(sum((x - mean) ** 2 for x in total) / max(1, n - 1))
    error = spread / math.sqrt(n) / mean if mean and not whole else 0.0
    lost = [too_long(engine, x, seq_len) for x in total]
    supervised = sum(s for s, gone in zip(found.answer, lost, strict=True) if not gone) / n
    # One global batch, drawn: with fewer rows counted than a batch has, some stand in more than once. Of NeMo-RL: a row
    # that is masked leaves a few tokens, and a row in a bin is padded.
    draw = random.Random(seed)
    drawn = draw.sample(total, batch) if batch <= n else draw.choices(total, k=batch)
    if engine == "nemo-rl":
        unit = recipes.sequence_unit(recipe)
        lengths = [-(-(8 if too_long(engine, x, seq_len) else x) // unit) * unit for x in drawn]
        packed = pack(lengths, -(-seq_len // unit) * unit)
    else:  # in their order, without padding, as packed.py does
        lengths = [max(1, min(x, seq_len) - 1) for x in drawn]
        packed = fill(lengths, seq_len)
    bins = [sum(lengths[i] for i in rows) for rows in packed]
    return {
        "rows": rows,
        "counted": n,
        "whole": whole,
        "standard_error": error,
        "tokens": {
            "mean": mean,
            "p50": percentile(ordered, 0.5),
            "p90": percentile(ordered, 0.9),
            "p99": percentile(ordered, 0.99),
            "max": ordered[-1],
            "total": round(mean * rows),
            "supervised": round(supervised * rows),
            "prompt_mean": sum(found.prompt) / n,
        },
        "over_seq_len": sum(lost) / n,
        "seq_len": seq_len,
        "global_batch": batch,
        "steps_per_epoch": rows // batch,
        "rows_left_over": rows % batch,
        "bins_per_batch": len(bins),
        "bin_fill": sum(bins) / (len(bins) * seq_len),
        "steps_per_epoch_packed": max(1, round(rows / batch * len(bins) / batch)),
        "epochs": int(recipe["STEPS"]) * batch / rows,
        "histogram": histogram(ordered, seq_len),
    }


def histogram(ordered: Sequence[int], seq_len: int) -> dict[str, list[int]]:
    """Counts of rows in some twenty classes of equal width up to SEQ_LEN, and one above it."""
    width = max(1, -(-min(seq_len, ordered[-1]) // 20))
    edges = list(range(0, min(seq_len, ordered[-1]) + width, width))
    counts = [0] * len(edges)
    for x in ordered:
        counts[min(x // width, len(edges) - 1)] += 1
    return {"from": edges, "rows": counts}


def render(done: dict[str, Any], report: dict[str, Any], recipe: recipes.Recipe) -> str:
    """The report as people read it."""
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
        f"{report['rows_left_over']:,} left over; {int(recipe['STEPS']):,} steps are {report['epochs']:.2f} epochs",
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
    parser = recipes.parser(__doc__)
    parser.add_argument("--rows", type=int, default=SAMPLE, help=f"rows to count, 0: all (default: {SAMPLE:,})")
    parser.add_argument("--tokenizer", type=Path, help="folder of the tokenizer, in place of the base model's")
    parser.add_argument(
        "--if-possible", action="store_true", help="where there is no tokenizer yet, say so and succeed"
    )
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    args, recipe, paths = recipes.open_run(parser)
    again = f"MODEL={args.model} ROUND={args.round}"
    path = paths.rows
    try:
        done = recipes.read_data(paths, again)
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
    keys = {k: recipe[k] for k in names} | {"REPORT_ROWS": str(args.rows)}
    inputs = {"data": done["outputs"][paths.rows.name], "tokenizer": counter(tokenizer).sha256}
    if (paths.report / "DONE").is_file():
        try:
            if is_done(paths.report, keys, inputs):
                log(f"report: {paths.report} is already there")
                print((paths.report / "report.txt").read_text(encoding="utf-8"), end="")
                return
        except Failure:  # of other data or settings: a report is cheap, and only the present one is of use
            shutil.rmtree(paths.report)

    offsets, whole = choose(path, done, most, int(recipe["SEED"]))
    # automodel leaves out what the template writes after the end of turn.
    end = ENDS[recipe["CHAT"]] if recipe["ENGINE"] == "automodel" else ""
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
    report = figures(recipe, done["rows"]["all"], found, whole, int(recipe["SEED"]))
    report["tokens"]["max"] = max(report["tokens"]["max"], *extreme, 0)
    text = render(done, report, recipe)
    with new_folder(paths.report) as part:
        (part / "report.txt").write_text(text, encoding="utf-8")
        plot(part / "lengths.png", found, int(recipe["SEQ_LEN"]), f"{args.model}, round {args.round}")
        write_done(part, keys, inputs, report=report)
    print(text, end="")
    log(f"report: {paths.report}")


if __name__ == "__main__":
    run(main)
