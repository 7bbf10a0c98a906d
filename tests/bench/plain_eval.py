"""Grading and metrics as NeMo-Skills does them, written from a description: one process, one answer after the other.

    python plain_eval.py ROWS OUT K

ROWS: JSONL of problem, sample, expected_answer, answer. Each row is graded as it comes, without a memory of others and
without a short-cut; then each metric is counted for every k up to K (NeMo-Skills 8b18f39
nemo_skills/evaluation/math_grader.py:46-134 and nemo_skills/evaluation/metrics/base.py:246-420).
"""

import json
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "python"))

from latex2sympy2_extended import NormalizationConfig, normalize_latex
from math_verify import LatexExtractionConfig, StringExtractionConfig, parse, verify

from sft.eval.grading.today import LETTERS, LITERAL, MATH, bare


def equal(gold: str, answer: str | None) -> bool:
    if answer is None:
        return False
    letters = [StringExtractionConfig(strings=LETTERS)]
    choices = parse(gold, letters), parse(answer, letters)
    if gold.strip() in LETTERS and verify(*choices):
        return True
    gold, answer = bare(gold), bare(answer)
    ours, theirs = (normalize_latex(text, NormalizationConfig()) for text in (gold, answer))
    same = ours.replace(" ", "") == theirs.replace(" ", "")
    if same or (LITERAL.fullmatch(ours) and LITERAL.fullmatch(theirs)):
        return same
    parsed = [parse(text if MATH.search(text) else f"${text}$", [LatexExtractionConfig()]) for text in (gold, answer)]
    return bool(verify(*parsed, numeric_precision=15, timeout_seconds=10))


def main() -> None:
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    k = int(sys.argv[3])
    problems: dict[str, list[tuple[str | None, bool]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["problem"], row["sample"])):
        problems[row["problem"]].append((row["answer"], equal(row["expected_answer"], row["answer"])))
    sums: dict[str, float] = Counter()
    for answers in problems.values():
        right = sum(correct for _, correct in answers)
        for at in range(1, k + 1):
            sums[f"pass@{at}"] += 1 - math.comb(k - right, at) / math.comb(k, at)
            sums[f"pass@1[avg-of-{at}]"] += sum(correct for _, correct in answers[:at]) / at
            given = Counter(vote for vote in answers[:at] if vote[0] is not None)
            if given:
                most = given.most_common(1)[0][1]
                best = [correct for (_, correct), count in given.items() if count == most]
                sums[f"maj@{at}"] += sum(best) / len(best)
    names = (f"pass@{k}", f"pass@1[avg-of-{k}]", f"maj@{k}")
    scores = {name: round(100 * sums[name] / len(problems), 4) for name in names}
    Path(sys.argv[2]).write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
