"""The scores of a run as every view of them has them: in percent, with an error, and what is published beside each.

An evaluation has either the rates of k samples (sft/eval/scores/rates.py), or shares of one answer a problem
(sft/eval/kinds.py). Only the first are compared with published ones.
"""

import math
from dataclasses import dataclass
from typing import Any

from sft.eval.metrics import MEASURES, score_rows
from sft.eval.scores.published import PROBLEMS, REPRODUCES, WIDTH, Published, Verdict, published, verdict

# How the figures of an evaluation are headed.
HEADS = {"published_regex": "tutorial's regex", "think": "think tags", "no_answer": "no answer"}
HEADS |= {"exact_match": "EM", "f1": "F1", "rougeL": "ROUGE-L", "harness_regex": "lm-eval's regex"}
# Of an evaluation's shares those that are scores; the others say how the answers are.
SHARES = ("pass@1", "accuracy", "published_regex", "harness_regex", *MEASURES)
# Published under another mode and metric than ours: the majority of what the model's own comparisons picked.
GENSELECT = "genselect"
PUBLISHED_MODES = {GENSELECT: "tir+self-genselect"}


@dataclass(frozen=True)
class Score:
    """value: percent. error: standard error, in points; over: samples, or problems where there is one of each."""

    model: str
    name: str
    mode: str
    metric: str
    value: float
    error: float
    over: str
    published: Published | None = None
    verdict: Verdict | None = None

    @property
    def text(self) -> str:
        return f"{self.value:.1f} ± {self.error:.1f}"

    @property
    def theirs(self) -> str:
        """The published value, with a decimal at least; "-" without one."""
        if self.published is None:
            return "-"
        return max(f"{self.published.value:.1f}", f"{self.published.value:g}", key=len)


def sampled(figures: dict[str, Any]) -> bool:
    """Whether figures are the rates of k samples."""
    return "k" in figures


def whole(name: str, figures: dict[str, Any]) -> bool:
    """Whether figures are of all problems that a published score is of, each with samples."""
    return sampled(figures) and figures["problems"] == PROBLEMS.get(name.rpartition("/")[2])


def size(figures: dict[str, Any]) -> str:
    """How many problems, and of how many samples each."""
    return f"{figures['problems']:,} x {figures['k']}" if sampled(figures) else f"{figures['n']:,}"


def share_error(share: float, n: int) -> float:
    """The standard error of a share of n problems, in points; at most so much for a mean of values from 0 to 1.

    With two right and two wrong ones added, so that it is not 0 where all of n are right (Agresti and Coull 1998).
    """
    middle = (share * n + 2) / (n + 4)
    return 100 * math.sqrt(middle * (1 - middle) / (n + 4))


def rates_of(figures: dict[str, Any], tie: str) -> dict[str, tuple[float, float, str]]:
    """metric -> (value, error, over)."""
    if not sampled(figures):
        shares = {what: figures[what] for what in SHARES if what in figures}
        return {what: (100 * share, share_error(share, figures["n"]), "problems") for what, share in shares.items()}
    k = figures["k"]
    found = {"pass@1": figures[f"pass@1[avg-of-{k}]"]}
    if k > 1:
        found |= {f"maj@{k}": figures[f"maj@{k}"][tie], f"pass@{k}": figures[f"pass@{k}"]}
    return {what: (rate["value"], rate["error_samples"], "samples") for what, rate in found.items()}


def notes_of(figures: dict[str, Any]) -> dict[str, str]:
    """What figures say beside scores: how many answers are cut, how long they are, ..."""
    if not sampled(figures):
        return {HEADS.get(what, what): f"{100 * figures[what]:.1f}" for what in figures if what not in ("n", *SHARES)}
    found = {HEADS.get(what, what): f"{figures[what]:.1f}" for what in ("no_answer", "truncated")}
    found["tokens"] = f"{figures['tokens']:,.0f}"
    return found if figures.get("calls") is None else found | {"code calls": f"{figures['calls']:.1f}"}


def tie_of(result: dict[str, Any]) -> str:
    """What a tie of votes is worth by the run's protocol; the published rule where it names none."""
    protocol = result.get("protocol")
    return protocol.get("tie", "first") if isinstance(protocol, dict) else "first"


def published_of(result: dict[str, Any], name: str, mode: str) -> dict[str, Published]:
    """metric of ours -> what is published of the model that the run reproduces."""
    found = {}
    for model in REPRODUCES.get((result["model"], result["round"]), ()):
        for row in published(model, name, PUBLISHED_MODES.get(mode, mode)):
            found[f"maj@{row.k}" if row.metric == GENSELECT else row.metric] = row
    return found


def scores_of(result: dict[str, Any]) -> list[Score]:
    """Every score of a run, in the order of its evaluation."""
    made = []
    for model, name, mode, figures in score_rows(result["scores"]):
        theirs = published_of(result, name, mode) if model == "trained" and whole(name, figures) else {}
        for metric, (value, error, over) in rates_of(figures, tie_of(result)).items():
            row = theirs.get(metric)
            judged = verdict(value, error, row) if row else None
            made.append(Score(model, name, mode, HEADS.get(metric, metric), value, error, over, row, judged))
    return made


def differ(ours: Score, theirs: Score) -> tuple[float, float]:
    """(how many points ours is above theirs, how many points either way their errors explain)."""
    return ours.value - theirs.value, WIDTH * math.hypot(ours.error, theirs.error)
