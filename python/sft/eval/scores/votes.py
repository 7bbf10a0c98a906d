"""What is made of the answers to one problem: pass@k, and the majority by two rules for ties.

Answers are the same vote when they are the same text and were graded alike; 0.5 and 1/2 split one. That is upstream's
rule at both times, so the published figures have it in them (NeMo-Skills 8b18f39 nemo_skills/evaluation/metrics/
base.py:246-300; 0f7bd73 nemo_skills/evaluation/metrics/math_metrics.py:160-175).
"""

from collections import Counter
from math import comb

from sft.eval.scores.samples import Votes

TIES = ("first", "mean")


def pass_at(n: int, correct: int, k: int) -> float:
    """The chance that k of n answers, drawn without replacement, hold one of the `correct` right ones (base.py:385).

    Raises ValueError for k outside of 1 to n.
    """
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(f"k = {k} of {n} answers, {correct} right")
    return 1 - comb(n - correct, k) / comb(n, k)


def tied(answers: Votes) -> list[tuple[str, bool]]:
    """The votes that as many have as any other, in the order in which they were first given; [] without an answer."""
    counts = Counter((answer, right) for answer, right in answers if answer is not None)
    most = max(counts.values(), default=0)
    return [vote for vote, count in counts.items() if count == most]


def majority(answers: Votes, tie: str) -> float:
    """Whether the answer of the most samples is right; 0 without any answer.

    tie: of several with equally many votes, `first` takes the one that was given first, as at the release, and `mean`
    the share of them that is right, as today.
    """
    if tie not in TIES:
        raise ValueError(tie)
    best = tied(answers)
    if not best:
        return 0.0
    return float(best[0][1]) if tie == "first" else sum(right for _, right in best) / len(best)
