"""The page's figures, drawn by matplotlib as SVG that stands in the page and takes its colours, light or dark."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from sft.eval.scores.published import Published
from sft.results.page.answers import Answers

# matplotlib knows no variables of CSS: these colours stand for them until the SVG is written.
COLOURS = {f"#0a0b{n:02x}": f"var(--line{n})" for n in range(1, 7)}
LINES, INK, FAINT = list(COLOURS), "#0a0c01", "#0a0c02"
COLOURS |= {INK: "currentColor", FAINT: "var(--faint)"}
STYLES = ("-", "--", ":", "-.")
SETTINGS = {
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "sans-serif", "font.size": 10,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "grid.color": FAINT, "axes.grid": True,
    "legend.frameon": False, "legend.fontsize": 9, "savefig.transparent": True,
}  # fmt: skip


def svg(name: str, title: str, draw: Callable[[Any], None]) -> str:
    """The SVG that draw(axes) makes. name: unique in the page, for the ids in it. The same each time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(SETTINGS | {"svg.hashsalt": name}):
        figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
        draw(axes)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=3)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
        plt.close(figure)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text).replace('"#', f'"#{name}-').replace("url(#", f"url(#{name}-")
    for colour, variable in COLOURS.items():
        text = text.replace(colour, variable)
    return re.sub(r"^<svg", '<svg role="img"', text)


def plain(value: float, _: Any) -> str:
    """A tick of a logarithmic axis; matplotlib's own are formulas."""
    return f"{value:g}"


def loss(name: str, metrics: dict[int, dict[str, Any]]) -> str:
    from matplotlib.ticker import LogLocator, NullLocator

    def draw(axes: Any) -> None:
        axes.plot(list(metrics), [m["loss"] for m in metrics.values()], color=LINES[0], linewidth=1.2)
        axes.set(xlabel="optimizer step", ylabel="training loss", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.set_minor_locator(NullLocator())
        if metrics and all("lr" in m for m in metrics.values()):  # NeMo-RL does not print it
            right = axes.twinx()
            right.plot(list(metrics), [m["lr"] for m in metrics.values()], color=LINES[1], linewidth=1, linestyle="--")
            right.set_ylabel("learning rate (dashed)")
            right.spines["right"].set_visible(True)
            right.grid(False)

    return svg(name, "training loss over the steps", draw)


def lengths(name: str, runs: Sequence[Answers], cut: int | None) -> str:
    """How long the answers to a set are; cut: the most tokens that an answer may have."""
    counted = all(run.tokens for run in runs)
    values = [run.tokens if counted else run.characters for run in runs]
    most = max(1, *(max(found, default=1) for found in values))
    if counted and cut:
        most = max(most, cut)

    def draw(axes: Any) -> None:
        for number, (run, found) in enumerate(zip(runs, values, strict=True)):
            colour = LINES[number % len(LINES)]
            axes.hist(
                found, bins=40, range=(0, most), histtype="step", linewidth=1.4, color=colour,
                linestyle=STYLES[number % len(STYLES)], label=f"{run.model}, {run.mode}",
            )  # fmt: skip
        if counted and cut:
            axes.axvline(cut, color=INK, linewidth=1, linestyle="--", label=f"the limit, {cut:,}")
        axes.set(
            xlabel=f"{'tokens' if counted else 'characters'} of an answer", ylabel="answers", xlim=(0, most * 1.02)
        )

    return svg(name, "lengths of the answers", draw)


def curves(name: str, runs: Sequence[tuple[str, dict[str, Any], str, Sequence[Published]]]) -> str:
    """pass@k and maj@k over k. runs: label, rates, the rule for ties, and what is published of it, drawn as points."""

    def draw(axes: Any) -> None:
        for number, (label, figures, tie, theirs) in enumerate(runs):
            found, colour = figures["curves"], LINES[number % len(LINES)]
            for what, values, style in (("pass@k", found["pass@k"], "--"), ("maj@k", found["maj@k"][tie], "-")):
                axes.plot(found["k"], values, style, color=colour, linewidth=1.4, label=f"{label}, {what}")
            points = [(1 if row.metric == "pass@1" else row.k, row.value) for row in theirs]
            if points:
                axes.plot(*zip(*points, strict=True), "o", color=colour, markerfacecolor="none", markersize=8, zorder=5)
        if any(theirs for *_, theirs in runs):
            axes.plot([], [], "o", color=INK, markerfacecolor="none", markersize=8, label="published")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(plain)
        axes.set(xlabel="k", ylabel="percent")

    return svg(name, "pass@k and maj@k", draw)
