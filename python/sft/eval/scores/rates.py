"""The scores of a benchmark, in percent: pass@1[avg-of-k], pass@k, maj@k by both rules, each with its errors."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sft.eval.scores.samples import Sample, by_problem, subsets, votes
from sft.eval.scores.spread import SEED, majority_over_samples, mean_over_samples, over_problems, pass_over_samples
from sft.eval.scores.votes import TIES, majority, pass_at


@dataclass(frozen=True)
class Rate:
    """A score in percent, and its standard errors, over samples and over problems; see spread.py."""

    value: float
    error_samples: float
    error_problems: float


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def powers(k: int) -> list[int]:
    """1, 2, 4, ... and k itself: where curves over k have points."""
    return [*(1 << n for n in range(k.bit_length()) if 1 << n < k), k]


def rates(samples: Iterable[Sample], k: int, problems: int | None = None, seed: int = SEED) -> dict[str, Any]:
    """The scores of one set of samples, k of each problem.

    problems, k, n (samples), pass@1[avg-of-k], pass@k, maj@k by "first" and by "mean", each a Rate; and no_answer,
    truncated (percent), tokens, calls (means of a sample; calls None without code), with curves over k in `curves`.
    Raises Failure when the samples are not k of each problem: by_problem.
    """
    of = by_problem(samples, k, problems)
    every = [sample for group in of.values() for sample in group]
    answers = [votes(group) for group in of.values()]
    right = [sum(correct for _, correct in group) for group in answers]
    shares, passed = [count / k for count in right], [pass_at(k, count, k) for count in right]
    voted = {tie: [majority(group, tie) for group in answers] for tie in TIES}
    calls = [sample.calls for sample in every if sample.calls is not None]

    def rate(scores: list[float], over_samples: float) -> dict[str, float]:
        made = Rate(100 * mean(scores), over_samples, over_problems(scores, seed))
        return {name: round(value, 4) for name, value in asdict(made).items()}

    return {
        "problems": len(of),
        "k": k,
        "n": len(every),
        f"pass@1[avg-of-{k}]": rate(shares, mean_over_samples(right, k, seed)),
        f"pass@{k}": rate(passed, pass_over_samples(right, k, k, seed)),
        f"maj@{k}": {tie: rate(voted[tie], majority_over_samples(answers, tie, seed)) for tie in TIES},
        "no_answer": round(100 * mean([float(sample.answer is None) for sample in every]), 4),
        "truncated": round(100 * mean([float(sample.finish == "length") for sample in every]), 4),
        "tokens": round(mean([sample.tokens for sample in every]), 1),
        "calls": round(mean(calls), 4) if calls else None,
        "curves": {
            "k": powers(k),
            "pass@k": [round(100 * mean([pass_at(k, count, at) for count in right]), 4) for at in powers(k)],
            "pass@1[avg-of-k]": [
                round(100 * mean([mean([float(correct) for _, correct in group[:at]]) for group in answers]), 4)
                for at in powers(k)
            ],
            "maj@k": {
                tie: [round(100 * mean([majority(group[:at], tie) for group in answers]), 4) for at in powers(k)]
                for tie in TIES
            },
        },
    }


def all_rates(
    samples: Iterable[Sample], k: dict[str, int], problems: dict[str, int] | None = None, seed: int = SEED
) -> dict[str, dict[str, Any]]:
    """rates() of each benchmark, and of each of its subsets as <benchmark>/<subset>.

    k, problems: of each benchmark; problems also of subsets, by their whole names, where they are known. A benchmark
    of which not one sample is there is a Failure, too.
    """
    found = subsets(samples)
    for name in k:
        found.setdefault(name, [])
    return {
        name: rates(group, k[name.split("/")[0]], (problems or {}).get(name), seed) for name, group in found.items()
    }
