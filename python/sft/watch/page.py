"""The runs as one HTML page with plots: no server, no script, nothing from elsewhere."""

import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from sft.eval.metrics import first, score_rows
from sft.watch.overview import HEAD, Run, rows
from sft.watch.plot import loss_plot

# Columns of the table by how the page shows them: at their right end, or in two lines where there is little room.
KINDS = {"round": "number", "step": "number", "loss": "number", "GPU hours": "number", "changed": "date"}
COMMIT, CHANGED = HEAD.index("commit") - 1, HEAD.index("changed") - 1
# Of the recipe, what tells one run from another at a glance.
FACTS = (
    ("BASE_MODEL", "base {}"), ("DATASET", "data {}"), ("ENGINE", "engine {}"), ("LR", "learning rate {}"),
    ("GLOBAL_BATCH", "{} rows a step"), ("SEQ_LEN", "{} tokens a row"),
)  # fmt: skip


def anchor(run: Run) -> str:
    """The id of its section: the same at each make runs, so that a link to it lasts."""
    return quote(f"{run.model}-round{run.round}")


def scores(run: Run) -> str:
    """Bars of the first figure of each set and mode: the model that training started from, and the trained one."""
    sets: dict[str, list[tuple[str, float]]] = {}
    for model, name, mode, figures in score_rows(run.scores):
        what, value = first(figures)
        if "/" not in name:  # a part of a set
            sets.setdefault(f"{name}{'' if mode == 'plain' else f' {mode}'}, {what}", []).append((model, value))
    if not sets:
        return ""
    out = ["<figure><figcaption>scores, of 100%</figcaption>"]
    for label, bars in sets.items():
        out.append(f'<div class="score">{escape(label)}')
        for model, value in bars:
            kind = "bar baseline" if model == "baseline" else "bar"
            fill = f'<div class="track"><div class="fill" style="width:{min(max(value, 0), 1):.1%}"></div></div>'
            out.append(f'<div class="{kind}"><span>{escape(model)}</span>{fill}<span>{value:.1%}</span></div>')
        out.append("</div>")
    return "\n".join([*out, "</figure>"])


def table(cells: Sequence[Sequence[str]], runs: Sequence[Run]) -> list[str]:
    """The overview, each row linked to its section. It scrolls in its own box where it is wider than the window."""
    head, *body = cells
    kinds = [f' class="{KINDS[name]}"' if name in KINDS else "" for name in head]
    lines = ['<div class="wide" tabindex="0" role="region" aria-label="table of all runs">', "<table>", "<tr>"]
    lines += [f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(head, kinds, strict=True)] + ["</tr>"]
    for row, run in zip(body, runs, strict=True):
        name, *others = (escape(cell) for cell in row)
        others[COMMIT] = others[COMMIT][:7]
        others[CHANGED] = " ".join(f"<span>{part}</span>" for part in others[CHANGED].split())
        if run.trouble:
            others[-1] = f'<span class="trouble">{others[-1]}</span>'
        linked = [f'<a href="#{anchor(run)}">{name}</a>', *others]
        found = (f"<td{kind}>{cell}</td>" for cell, kind in zip(linked, kinds, strict=True))
        lines.append("<tr>" + "".join(found) + "</tr>")
    return [*lines, "</table>", "</div>"]


def facts(run: Run) -> list[str]:
    """What the run is and where it stands, in words."""
    state = [run.state]
    if run.metrics:
        steps = f" of {int(run.recipe['STEPS']):,}" if run.recipe else ""
        state.append(f"step {run.step:,}{steps}, loss {run.loss:.4f}")
    if run.recipe.get("DEVICE") == "gpu":
        state.append(f"{run.hours:,.1f} GPU hours on {run.recipe['NODES']} x {run.recipe['GPUS_PER_NODE']} GPUs")
    lines = [state, [words.format(run.recipe[key]) for key, words in FACTS if key in run.recipe]]
    return [f'<p class="facts">{escape("; ".join(line))}</p>' for line in lines if line]


def section(run: Run, work: Path) -> Iterator[str]:
    yield f'<section id="{anchor(run)}"><header><h2>{escape(run.name)}</h2><a href="#top">all runs</a></header>'
    yield from facts(run)
    if run.trouble:
        yield f'<p class="trouble">{escape(run.trouble)}</p>'
    page_ = run.folder / "results/index.html"
    if page_.is_file():
        yield f'<p><a href="{quote(str(page_.relative_to(work)))}">figures and answers of this run</a></p>'
    loss = loss_plot(run.name, {step: row["loss"] for step, row in run.metrics.items()})
    plots = [f"<figure><figcaption>loss</figcaption>{loss}</figure>" if loss else "", scores(run)]
    if any(plots):
        yield '<div class="plots">' + "\n".join(plot for plot in plots if plot) + "</div>"
    elif not run.trouble:
        yield "<p>There are no steps and no scores yet.</p>"
    yield "</section>"


def page(runs: Sequence[Run], work: Path) -> str:
    """The whole page, which is to lie in WORK."""
    title = f"Runs in {work.name}"
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    made = time.strftime("%Y-%m-%d %H:%M")
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        f'<head><meta charset="utf-8">{viewport}<title>{escape(title)}</title><style>{style}</style></head>',
        f'<body id="top"><h1>{escape(title)}</h1>',
        f'<p class="hint">{len(runs):,} in all, the last changed first. Written {made} by make runs.</p>',
        *table(rows(list(runs)), runs),
        *(line for run in runs for line in section(run, work)),
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"
