"""How far a score may be from what it would be with other samples, or with other problems: seeded bootstraps.

By samples: each problem's k samples are drawn again from those k. It is the error of this run's sampling, and what a
difference to a published value of the same problems is compared with. By problems: the problems are drawn again, with
their scores. It says how far the score would be with other problems of the kind, and holds the first one in it.
Upstream prints neither: its std_dev_across_runs is that of one sample per problem (NeMo-Skills 8b18f39
nemo_skills/evaluation/metrics/base.py:49-121).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sft.eval.scores.samples import Votes
from sft.eval.scores.votes import pass_at

TIMES = 1000  # of drawing again
SEED = 0


def generator(seed: int) -> Any:
    import numpy as np

    return np.random.default_rng(seed)


def over_problems(scores: Sequence[float], seed: int = SEED, times: int = TIMES) -> float:
    """The standard error of the mean of one score a problem, from 0 to 1; in percent. 0 for one problem."""
    import numpy as np

    values = np.asarray(scores, dtype=float)
    places = generator(seed).integers(len(values), size=(times, len(values)))
    return 100 * float(values[places].mean(axis=1).std())


def mean_over_samples(correct: Sequence[int], n: int, seed: int = SEED, times: int = TIMES) -> float:
    """That of pass@1[avg-of-n], over the samples: `correct` right ones of n for each problem; in percent."""
    import numpy as np

    shares = np.asarray(correct, dtype=float) / n
    return 100 * float((generator(seed).binomial(n, shares, size=(times, len(shares))) / n).mean(axis=1).std())


def pass_over_samples(correct: Sequence[int], n: int, k: int, seed: int = SEED, times: int = TIMES) -> float:
    """That of pass@k, likewise."""
    import numpy as np

    table = np.asarray([pass_at(n, c, k) for c in range(n + 1)])
    drawn = generator(seed).binomial(n, np.asarray(correct, dtype=float) / n, size=(times, len(correct)))
    return 100 * float(table[drawn].mean(axis=1).std())


def majority_over_samples(problems: Sequence[Votes], tie: str, seed: int = SEED, times: int = TIMES) -> float:
    """That of maj@k, likewise. Of votes that tie, `first` takes each with the same chance: drawn samples come in any
    order, so each of them is as likely to be the first."""
    import numpy as np

    draw = generator(seed)
    totals = np.zeros(times)
    for answers in problems:
        counts = Counter(answers)
        shares = np.asarray(list(counts.values()), dtype=float) / len(answers)
        given = np.asarray([answer is not None for answer, _ in counts])
        right = np.asarray([bool(right) for _, right in counts], dtype=float)
        drawn = np.where(given, draw.multinomial(len(answers), shares, size=times), 0)
        most = drawn.max(axis=1, keepdims=True)
        best = (drawn == most) & (most > 0)
        if tie == "mean":
            totals += (best * right).sum(axis=1) / np.maximum(best.sum(axis=1), 1)
        else:
            chosen = np.where(best, draw.random(best.shape), -1).argmax(axis=1)
            totals += np.where(most[:, 0] > 0, right[chosen], 0)
    return 100 * float((totals / len(problems)).std())
