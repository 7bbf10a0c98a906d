"""A run's results as Markdown: its own page, and its rows of results/README.md."""

from itertools import groupby
from typing import Any

from sft.eval.metrics import score_rows
from sft.lib.table import markdown
from sft.results.scores import HEADS, Score, notes_of, sampled, scores_of, size


def table(result: dict[str, Any]) -> str:
    """The run as Markdown: scores, then seconds and memory of each stage."""
    lines = [
        f"# {result['model']}, round {result['round']}",
        "",
        f"Commit `{result['code']['commit'][:12]}`{' with uncommitted changes' if result['code']['dirty'] else ''}, "
        f"recipe `{result['recipe_sha256'][:12]}`, data `{result['data_sha256'][:12]}`; "
        f"{result['steps']} steps in {result['links']} link(s), final loss {result['final_loss']:.4f}.",
    ]
    lines += scores(result)
    costs = [
        (name, f"{cost['seconds']:.1f}", f"{cost['peak_memory_bytes'] / 2**20:,.0f}")
        for name, cost in result["stages"].items()
    ]
    lines += ["", *markdown([("stage", "seconds", "peak memory, MiB"), *costs])]
    return "\n".join(lines) + "\n"


def scores(result: dict[str, Any]) -> list[str]:
    """All scores as tables, and how the answers of each evaluation were made and compared."""
    lines = score_tables(shares_of(result["scores"])) + rate_tables(result)
    for name, made in result["evaluations"].items():
        by = f", protocol {made['protocol']['name']}" if made["protocol"] else ""
        lines += ["", f"Answers of {name}: {made['decoding']}; compared by {made['grader']}{by}."]
    return lines


def shown(mode: str) -> str:
    return mode if mode != "plain" else "-"


# --- one answer a problem ----------------------------------------------------------------------------------------


def shares_of(scores: dict[str, Any]) -> dict[str, Any]:
    """scores without the figures that are rates of k samples."""
    return {
        model: {
            name: {mode: figures for mode, figures in modes.items() if not sampled(figures)}
            for name, modes in sets.items()
        }
        for model, sets in scores.items()
    }


def score_tables(scores: dict[str, Any]) -> list[str]:
    """Markdown: model, set and mode for sets with like figures, and what the system prompt switches."""
    lines: list[str] = []
    for head, alike in groupby(sorted(score_rows(scores), key=lambda row: tuple(row[3])), lambda row: tuple(row[3])):
        rows = [("model", "set", "mode", *(HEADS.get(what, what) for what in head))]
        for model, name, mode, figures in alike:
            rates = (f"{value:,}" if what == "n" else f"{value:.1%}" for what, value in figures.items())
            rows.append((model, name, shown(mode), *rates))
        lines += ["", *markdown(rows)]
    switched = [
        (model, name, *(f"{modes[mode][what]:.1%}" for what in ("think", "accuracy") for mode in ("on", "off")))
        for model, sets in scores.items()
        for name, modes in sets.items()
        if {"on", "off"} <= modes.keys()
    ]
    if switched:
        titles = ("model", "set", "think tags, on", "think tags, off", "accuracy, on", "accuracy, off")
        lines += ["", *markdown([titles, *switched])]
    return lines


# --- k samples of each problem -----------------------------------------------------------------------------------

RATES = ("model", "set", "mode", "problems", "score", "percent", "published", "difference", "verdict")


def rate_tables(result: dict[str, Any]) -> list[str]:
    """Markdown: each score with its error, and beside it what is published; then how the answers are."""
    found = [row for row in score_rows(result["scores"]) if sampled(row[3])]
    if not found:
        return []
    sizes = {(model, name, mode): size(figures) for model, name, mode, figures in found}
    rows: list[tuple[str, ...]] = [RATES]
    for score in scores_of(result):
        if (key := (score.model, score.name, score.mode)) in sizes:
            rows.append((*key, sizes[key], score.metric, score.text, *beside(score)))
    head = ("no answer", "truncated", "tokens", "code calls")
    notes: list[tuple[str, ...]] = [("model", "set", "mode", *head)]
    for model, name, mode, figures in found:
        of = notes_of(figures)
        notes.append((model, name, mode, *(of.get(what, "-") for what in head)))
    return ["", *markdown(rows), "", *markdown(notes)]


def beside(score: Score) -> tuple[str, str, str]:
    """The published value, the difference from it and the verdict."""
    if score.published is None or score.verdict is None:
        return "-", "-", "-"
    return score.theirs, f"{score.verdict.difference:+.1f}", score.verdict.label


# --- rows of results/README.md -----------------------------------------------------------------------------------

HEAD = ("model", "round", "scored", "set", "mode", "score, before -> after", "steps", "loss", "hours", "commit")


def summary(result: dict[str, Any]) -> list[str]:
    """The run's rows of results/README.md: per set and mode the first score, of the baseline and of the trained."""
    hours = sum(stage["seconds"] for stage in result["stages"].values()) / 3600
    firsts: dict[tuple[str, str, str], Score] = {}
    for score in scores_of(result):
        firsts.setdefault((score.model, score.name, score.mode), score)
    rows: list[tuple[str, ...]] = []
    for model, name, mode, figures in score_rows(result["scores"]):
        if model == "trained":
            after, before = firsts[model, name, mode], firsts.get(("baseline", name, mode))
            rows.append((
                result["model"],
                result["round"],
                f"`{result['scored']['trained']}`",
                f"{name}, {size(figures)}",
                shown(mode),
                f"{after.metric} {one(before, sampled(figures))} -> {one(after, sampled(figures))}",
                f"{result['steps']:,} in {result['links']} link(s)",
                f"{result['final_loss']:.4f}",
                f"{hours:.2f}",
                f"`{result['code']['commit'][:12]}`{' (dirty)' if result['code']['dirty'] else ''}",
            ))  # fmt: skip
    return markdown([HEAD, *rows])[2:]


def one(score: Score | None, with_error: bool) -> str:
    """A score in a row: with its error where samples give it one, and with what is published."""
    if score is None:
        return "-"
    if not with_error:
        return f"{score.value:.1f}%"
    value, difference, label = beside(score)
    return score.text if score.verdict is None else f"{score.text} (published {value}, {difference}: {label})"
