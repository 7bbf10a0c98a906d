"""Print the committed figures of make bench as the table of docs/data.md.

    python3 tests/bench/bench_table.py

Reads results/bench/{data,curation,average}.json, which `make bench` writes with BENCH_SAVE. Every number is from there.
"""

import json
from pathlib import Path
from statistics import median
from typing import Any

BENCHES = Path(__file__).resolve().parents[2] / "results/bench"
HEAD = ["", "published script", "plain loop in one process", "here, two processes", "ratios", "peak memory here"]


def load(name: str) -> dict[str, Any]:
    return json.loads((BENCHES / f"{name}.json").read_text(encoding="utf-8"))


def seconds(runs: list[dict[str, Any]]) -> float | None:
    return median(run["usage"]["seconds"] for run in runs) if runs else None


def row(what: str, published: float | None, plain: float | None, ours: float, peak: float, unit: str = "s") -> str:
    """Seconds of each, how many times ours goes into the others', and MiB."""
    digits = ".2f" if ours < 1 else ".1f"
    shown = [f"{value:{digits}} {unit}" if value is not None else "-" for value in (published, plain, ours)]
    ratios = [f"{value / ours:.1f}" if value is not None else "-" for value in (published, plain)]
    return "| " + " | ".join([what, *shown, " and ".join(ratios), f"{peak / 2**20:,.0f} MiB"]) + " |"


def data_rows() -> list[str]:
    used: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for run in load("data")["runs"]:
        used.setdefault((run["what"], run["round"], run["rows"]), []).append(run)
    small, large = sorted({rows for _, _, rows in used})
    lines = []
    for round_ in ("1", "2"):
        at = [
            [seconds(used.get((what, round_, rows), [])) for rows in (small, large)]
            for what in ("published script", "plain loop, one process", "make data")
        ]
        peaks = [max(run["usage"]["rss"] for run in used["make data", round_, rows]) for rows in (small, large)]
        further = [(b - a) / (large - small) * 1000 if a is not None and b is not None else None for a, b in at]
        lines.append(row(f"`make data` round {round_}, {small:,} rows", at[0][0], at[1][0], at[2][0] or 0, peaks[0]))
        lines.append(row("each further thousand rows", further[0], further[1], further[2] or 0, peaks[1]))
    return lines


def curation_row() -> str:
    plain, ours = load("curation")["runs"][:2]
    return row(
        f"`make data` of the reasoning recipe, {ours['rows']:,} rows",
        None, plain["usage"]["seconds"], ours["usage"]["seconds"], ours["usage"]["rss"],
    )  # fmt: skip


def average_rows() -> list[str]:
    bench = load("average")
    lines = []
    for cached, where in ((True, "in the page cache"), (False, "from the disk")):
        published, copies, ours = (
            [run for run in bench["runs"] if (run["what"], run["cached"]) == (what, cached)]
            for what in ("upstream algorithm", "plain copies", "average.py")
        )
        peak = max(run["usage"]["rss"] for run in ours)
        what = f"`make average`, four checkpoints of {bench['checkpoint_bytes'] / 1e9:.1f} GB, {where}"
        lines.append(row(what, seconds(published), seconds(copies), seconds(ours) or 0, peak))
    return lines


def table() -> str:
    head = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    return "\n".join([*head, *data_rows(), curation_row(), *average_rows()])


def sources() -> str:
    """What the figures were made on: per bench the hardware and the commit."""
    return "\n".join(
        f"- {name}: {bench['hardware']}; commit `{bench['code']['commit'][:12]}`"
        for name, bench in ((name, load(name)) for name in ("data", "curation", "average"))
    )


if __name__ == "__main__":
    print(table())
    print()
    print(sources())
