"""The simplest thing that could work: one process, everything in memory. What the published script could have been.

python tests/bench/plain.py SOURCE TARGET
"""

import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "python"))

import pyarrow.parquet as pq

from sft.data.openmath import PROMPTS, format_row
from sft.rows.files import TEXTS


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    target.mkdir(parents=True)
    lines: list[str] = []
    for split in PROMPTS:
        with open(target / f"{split}.jsonl", "w", encoding="utf-8") as out:
            for path in sorted(source.glob(f"{split}-*.parquet")):
                for batch in pq.ParquetFile(path).iter_batches(1000, columns=list(TEXTS)):
                    for row in batch.to_pylist():
                        lines.append(json.dumps(format_row(split, row), ensure_ascii=False) + "\n")
                        out.write(lines[-1])
    random.Random(42).shuffle(lines)
    with open(target / "all.jsonl", "w", encoding="utf-8") as out:
        out.writelines(lines)


if __name__ == "__main__":
    main()
