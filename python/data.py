"""Prepare a round's training data, by the recipe's SCHEMA: rows as they are trained on, shuffled, and DONE.

    python python/data.py qwen7b 1 --work /lustre/me/sft --source /lustre/me/OpenMathReasoning
    python python/data.py reasoning-lora 1 --work /lustre/me/sft --source /lustre/me/Llama-Nemotron
    python python/data.py llama3-lora 1 --work /lustre/me/sft --source /lustre/me/squad

OpenMathReasoning (no SCHEMA) is formatted, nemotron is curated, dolly and squad are split; see sft/data/. An
interrupted run resumes at the first shard that is not finished.
"""

from pathlib import Path

from sft.data import format, qa
from sft.data.nemotron import curate
from sft.data.output import FORMATS, FORMS
from sft.lib.errors import run
from sft.recipe.command import open_run, run_parser

MAKERS = {"openmath": format, "nemotron": curate, "dolly": qa, "squad": qa}


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--source", type=Path, help="a folder of parquet or JSONL files, in place of the download")
    parser.add_argument("--tokenizer", type=Path, help="a folder with a tokenizer, in place of the recipe's")
    parser.add_argument("--lang-model", type=Path, help="a fastText language model, in place of the download")
    parser.add_argument("--lang-model-url", help="where that comes from (default: as in docker/versions.env)")
    parser.add_argument("--lang-model-sha256", help="of that model (default: as in docker/versions.env)")
    parser.add_argument("--format", choices=FORMATS, default="jsonl", help="of the output files (default: jsonl)")
    parser.add_argument("--form", choices=FORMS, default="text", help="rows of input and output, or of messages")
    parser.add_argument("--columns", default="", help="columns of the source to keep beside them, separated by commas")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    args, recipe, paths = open_run(parser)
    MAKERS[recipe["SCHEMA"]].make(args, recipe, paths)


if __name__ == "__main__":
    run(main)
