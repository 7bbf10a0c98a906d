"""Grading and metrics as the evaluation does them, on the same rows and to the same figures as plain_eval.py.

python ours_eval.py ROWS OUT K [RULE]
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "python"))

from sft.eval.grading.pool import Grader
from sft.eval.scores.rates import rates
from sft.eval.scores.samples import Sample
from sft.lib.files import read_jsonl

if __name__ == "__main__":
    rows, k = list(read_jsonl(Path(sys.argv[1]))), int(sys.argv[3])
    with Grader(sys.argv[4] if len(sys.argv) > 4 else "today") as grader:
        verdicts = grader.verdicts([(row["expected_answer"], row["answer"]) for row in rows])
    samples = [
        Sample("bench", row["problem"], "", row["sample"], row["answer"], verdict.correct, 0, "stop")
        for row, verdict in zip(rows, verdicts, strict=True)
    ]
    found = rates(samples, k)
    single = {name: found[name]["value"] for name in (f"pass@{k}", f"pass@1[avg-of-{k}]")}
    Path(sys.argv[2]).write_text(json.dumps(single | {f"maj@{k}": found[f"maj@{k}"]["mean"]["value"]}))
