"""The page of make compare: two runs side by side."""

import os
from pathlib import Path
from urllib.parse import quote

from sft.results.compare import Change, Pair, Run, changed, changes, pairs
from sft.results.page.build import document
from sft.results.page.markup import escaped
from sft.results.page.matrix import chip

SHOWN = 200  # problems of a set


def comparison(a: Run, b: Run, target: Path) -> bytes:
    """The page, to lie at `target`: its links to the runs' own pages start there."""
    return document(f"{a.title} and {b.title}", body(a, b, target))


def body(a: Run, b: Run, target: Path) -> str:
    links = [link(run, target) for run in (a, b)]
    names = [
        f"{letter}: {anchor(run.title, to)}, <small>{escaped(run.folder)}</small>"
        for letter, run, to in zip("AB", (a, b), links, strict=True)
    ]
    return (
        f"<header><h1>{escaped(a.title)} and {escaped(b.title)}</h1><p>{'<br>'.join(names)}</p></header>\n<main>\n"
        '<section><h2>Scores</h2><p class="hint">In percent, with the standard error. A difference is B less A. It is '
        "inside the sampling error where 1.96 standard errors of both explain it.</p>"
        f"{scores(pairs(a, b))}</section>\n"
        f"<section><h2>What differs</h2>{differing(changes(a, b))}</section>\n"
        f"<section><h2>Problems that changed</h2>{problems(a, b, links)}</section>\n</main>\n"
    )


def link(run: Run, target: Path) -> str | None:
    return quote(os.path.relpath(run.page, target.resolve().parent)) if run.page else None


def anchor(text: str, to: str | None) -> str:
    """A link, or without a page to lead to just the text."""
    return f'<a href="{escaped(to)}">{escaped(text)}</a>' if to else escaped(text)


def table(label: str, head: tuple[str, ...], rows: list[list[str]]) -> str:
    """A table that scrolls by itself where it is wider than the page. Cells are HTML."""
    lines = ["".join(f'<th scope="col">{escaped(cell)}</th>' for cell in head)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    rowed = "".join(f"<tr>{line}</tr>" for line in lines)
    about = f'class="wide" tabindex="0" role="region" aria-label="{escaped(label)}"'
    return f"<div {about}><table>{rowed}</table></div>"


def scores(found: list[Pair]) -> str:
    rows = []
    for pair in found:
        score = pair.score
        values = [
            f'<span class="value">{s.value:.1f}</span> <span class="error">± {s.error:.1f}</span>' if s else "-"
            for s in (pair.a, pair.b)
        ]
        told = "-" if pair.difference is None else f"{pair.difference:+.1f}"
        names = [escaped(name) for name in (score.name, score.model, score.mode, score.metric)]
        rows.append([*names, *values, told, "-" if pair.difference is None else chip(pair.label)])
    return table("Scores", ("set", "model", "mode", "score", "A", "B", "difference", "verdict"), rows)


def differing(found: list[tuple[str, str, str]]) -> str:
    if not found:
        return "<p>Neither a key of the recipes nor a recorded fact.</p>"
    rows = [[escaped(cell) for cell in row] for row in found]
    return table("What differs", ("", "A", "B"), rows)


def problems(a: Run, b: Run, links: list[str | None]) -> str:
    sets = changed(a, b)
    if not sets:
        return "<p>Not known: answers.json of both runs is needed, with a set that both have.</p>"
    parts = []
    for key, (count, found) in sets.items():
        better = sum(change.difference > 0 for change in found)
        parts.append(
            f"<details open><summary>{escaped(key)}: of {count:,} problems {better:,} better, "
            f"{len(found) - better:,} worse</summary>{changed_table(key, found[:SHOWN], links)}"
            + (f"<p>The {len(found) - SHOWN:,} with smaller differences are left out.</p>" if found[SHOWN:] else "")
            + "</details>"
        )
    return "".join(parts)


def changed_table(key: str, found: list[Change], links: list[str | None]) -> str:
    rows = []
    for change in found:
        cells = [escaped(change.problem)]
        for (count, of), place, to in zip((change.a, change.b), change.places, links, strict=True):
            cells.append(anchor(f"{count}/{of}", f"{to}#{quote(key, safe='')}/{place}/0" if to else None))
        rows.append([*cells, f"{change.difference:+.1f}"])
    return table(key, ("problem", "right, A", "right, B", "difference"), rows) if rows else ""
