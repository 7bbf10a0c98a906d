"""Compare the results of two runs: scores with their errors, what differs between the recipes, problems that changed.

    python3 python/runs/compare.py work/runs/tiny/round1 results/tiny --work work

Each is a folder that make results wrote, or the run that it is in. Prints a table, and writes a page to
WORK/compare/<A>-<B>.html. Which problems changed is known where both have answers.json. Standard library only.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

import argparse
import os

from sft.lib.errors import run
from sft.lib.progress import log
from sft.lib.table import text
from sft.results.compare import Run, changed, changes, named, open_results, pairs
from sft.results.page.comparison import comparison


def tables(a: Run, b: Run) -> list[str]:
    """The comparison for a terminal."""
    head = ("set", "model", "mode", "score", "A", "B", "difference", "verdict")
    rows: list[tuple[str, ...]] = [head]
    for pair in pairs(a, b):
        score = pair.score
        told = "-" if pair.difference is None else f"{pair.difference:+.1f}"
        values = (s.text if s else "-" for s in (pair.a, pair.b))
        rows.append((score.name, score.model, score.mode, score.metric, *values, told, pair.label))
    lines = [f"A: {a.title}, {a.folder}", f"B: {b.title}, {b.folder}", "", text(rows), ""]
    differing = changes(a, b)
    lines.append(text([("differs", "A", "B"), *differing]) if differing else "no key of the recipes differs")
    sets = changed(a, b)
    if not sets:
        lines += ["", "problems that changed are not known: both need answers.json, with a set that both have"]
    for key, (count, found) in sets.items():
        better = sum(change.difference > 0 for change in found)
        lines.append(f"\n{named(key)}: of {count:,} problems {better:,} better, {len(found) - better:,} worse")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", help="results, or a run")
    parser.add_argument("b", help="the same, to compare with it")
    parser.add_argument("--work", default="work", help="where compare/ is written (default: work)")
    args = parser.parse_args()
    a, b = open_results(args.a), open_results(args.b)
    target = Path(args.work).resolve() / "compare" / f"{a.label}-{b.label}.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part{os.getpid()}")
    part.write_bytes(comparison(a, b, target))
    part.rename(target)
    print("\n".join(tables(a, b)))
    log(f"compare: {target}")


if __name__ == "__main__":
    run(main)
