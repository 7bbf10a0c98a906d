"""The score matrix: a row for each model, mode and metric, a column for each benchmark and subset."""

from itertools import groupby
from typing import Any

from sft.eval.metrics import score_rows
from sft.eval.scores.published import DOCS, OUTSIDE, SAMPLING
from sft.results.page.markup import escaped
from sft.results.scores import Score, notes_of, scores_of, size

# Of each verdict a class and a sign: it is told without colours, too.
CHIPS = {SAMPLING: ("inside", "="), DOCS: ("near", "~"), OUTSIDE: ("outside", "!")}


def chip(label: str) -> str:
    kind, sign = CHIPS[label]
    return f'<span class="chip {kind}"><b aria-hidden="true">{sign}</b> {escaped(label)}</span>'


def cell(score: Score) -> str:
    """A score, and below it what is published."""
    lines = [f'<span class="value">{score.value:.1f}</span> <span class="error">± {score.error:.1f}</span>']
    if score.published and score.verdict:
        reach = f"{score.published.source}; the sampling explains {score.verdict.sampling:.1f} points"
        lines.append(
            f'<span class="published" title="{escaped(reach)}">published {score.theirs}, '
            f"{score.verdict.difference:+.1f}</span>"
        )
        lines.append(chip(score.verdict.label))
    return "<br>".join(lines)


def matrix(result: dict[str, Any]) -> str:
    """The matrix of a run's results."""
    found = score_rows(result["scores"])
    names = list(dict.fromkeys(name for _, name, _, _ in found))
    sizes = {name: size(figures) for _, name, _, figures in found}
    scores = {(s.model, s.mode, s.metric, s.name): s for s in scores_of(result)}
    notes = {(model, mode, name): notes_of(figures) for model, name, mode, figures in found}
    head = "".join(f'<th scope="col">{escaped(name)}<small>{escaped(sizes[name])}</small></th>' for name in names)
    lines = [f'<tr><th scope="col">model</th><th scope="col">mode</th><th scope="col">score</th>{head}</tr>']
    rows = sorted({key[:3]: None for key in scores}, key=lambda row: row[0] != "baseline")
    for model, group in groupby(rows, lambda row: row[0]):
        of_model = list(group)
        modes = list(dict.fromkeys(mode for _, mode, _ in of_model))
        first = f'<th scope="rowgroup" rowspan="{len(of_model) + len(modes)}">{escaped(model)}</th>'
        for mode in modes:
            metrics = [metric for _, other, metric in of_model if other == mode]
            second = f'<th scope="rowgroup" rowspan="{len(metrics) + 1}">{escaped(mode)}</th>'
            for metric in metrics:
                cells = "".join(
                    f"<td>{cell(scores[key]) if (key := (model, mode, metric, name)) in scores else ''}</td>"
                    for name in names
                )
                lines.append(f'<tr>{first}{second}<th scope="row">{escaped(metric)}</th>{cells}</tr>')
                first = second = ""
            noted = (notes.get((model, mode, name), {}) for name in names)
            cells = "".join(
                f"<td>{', '.join(f'{escaped(k)} {escaped(v)}' for k, v in note.items())}</td>" for note in noted
            )
            lines.append(f'<tr class="notes"><th scope="row">answers</th>{cells}</tr>')
    return f"<table>{''.join(lines)}</table>"
