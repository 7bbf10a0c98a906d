"""The published data preparation, to measure and to check against: HF datasets, a chat template rendered row by row.

    python tests/bench/published.py SOURCE TARGET TOKENIZER 1

Written from the description in NeMo-Skills 8b18f39 docs/releases/openmathreasoning/training.md:11-57 (round 1) and
157-214 (round 2), prompts rendered as its nemo_skills/prompt/utils.py:175-260 does: the user's turn filled in, an empty
system message, the answer's turn cut out of a rendered conversation. Round 2 filters before it formats.
Writes omr-<split>.jsonl below TARGET; round 1's cat and shuf are the caller's.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "python"))
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")

from sft.data.openmath import PROMPTS
from sft.data.tiny import TEMPLATE
from sft.lib.errors import run
from sft.lib.workers import cores

SOURCES = ("aops_c5_contests_amp_programs", "aops_c6_high_school_olympiads")

Row = dict[str, Any]


def fill(tokenizer: Any, split: str, **fields: Any) -> str:
    turns = [{"role": "system", "content": ""}, {"role": "user", "content": PROMPTS[split].format(**fields)}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def answer(tokenizer: Any, text: str) -> str:
    turns = [{"role": "user", "content": ""}]
    before = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": text}], tokenize=False)
    assert whole.startswith(before)
    return whole[len(before) :]


def format_row(row: Row, tokenizer: Any, split: str) -> Row:
    fields = {"problem": row["input"]}
    if split == "tir":
        said = row["output"].split("Remaining code executions: ")
        if len(said) == 1:
            assert "You have run out of code executions!" in row["output"]
        # The first digit only, as published.
        fields["total_code_executions"] = int(said[1].split()[0][0]) + 1 if len(said) > 1 else 1
    return row | {"input": fill(tokenizer, split, **fields), "output": answer(tokenizer, row["output"])}


def keep_row(row: Row, tokenizer: Any, split: str, least: int) -> bool:
    if row["problem_source"] not in SOURCES:
        return False
    if row["pass_rate_72b_tir"] == "n/a" or float(row["pass_rate_72b_tir"]) > 0.3:
        return False
    return split == "genselect" or len(tokenizer.encode(row["output"])) >= least


def prepare(
    source: Path, target: Path, tokenizer: Path, round_: str, processes: int | None = None, least: int = 5000
) -> None:
    """Write omr-<split>.jsonl of a folder of parquet files. least: tokens that round 2 asks for.

    processes: 20, as published, would only slow a smaller machine down: one a core, as many as ours takes.
    """
    from datasets import load_dataset
    from transformers import AutoTokenizer

    target.mkdir(parents=True, exist_ok=True)
    words, processes = AutoTokenizer.from_pretrained(tokenizer), cores(processes)
    words.chat_template = words.chat_template or TEMPLATE  # a base model's may have none
    files = {split: sorted(str(path) for path in source.glob(f"{split}-*.parquet")) for split in PROMPTS}
    found = load_dataset("parquet", data_files=files, cache_dir=str(target / "cache"))
    for split in PROMPTS:
        rows = found[split].rename_column("problem", "input").rename_column("generated_solution", "output")
        if round_ == "2" or (round_ == "2exact" and split == "cot"):
            rows = rows.filter(partial(keep_row, tokenizer=words, split=split, least=least), num_proc=processes)
        if len(rows):
            rows = rows.map(partial(format_row, tokenizer=words, split=split), num_proc=min(processes, len(rows)))
        rows.to_json(target / f"omr-{split}.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("source", "target", "tokenizer"):
        parser.add_argument(name, type=Path)
    parser.add_argument("round", choices=("1", "2", "2exact"))
    args = parser.parse_args()
    prepare(args.source, args.target, args.tokenizer, args.round)


if __name__ == "__main__":
    run(main)
