"""Time the curation of Llama-Nemotron rows against a plain loop over the same filters, on the same generated rows.

    python tests/bench/curation_bench.py FOLDER [--rows 50000] [--tokenizer DIR] [--lang-model FILE]

The plain loop is one process, in which every stage renders and tokenizes each row for itself, as the tutorial's stages
do. Both curate as published, and have to make the same training.jsonl, or the bench fails. Ours is run for --rows and
for twice as many: its memory must not grow with them. Every run finds its input in the page cache.
"""

import argparse
import json
import os
import shutil
import signal
import sys
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "python"))

from curation_rows import generate, make_language_model, make_tokenizer
from data_bench import Run, hardware
from measure import measure

from sft.lib import errors
from sft.lib.done import code_identity
from sft.lib.errors import Failure
from sft.lib.files import sha256, write_json
from sft.lib.progress import log, ratio
from sft.recipe.paths import Paths
from sft.recipe.read import load

MODEL, ROUND = "reasoning-lora", "published"
PLAIN, OURS = "plain loop, one process", "make data"
VOCABULARY = 30_000


class Bench:
    def __init__(self, folder: Path, rows: int, tokenizer: Path | None, language: Path | None, workers: int):
        self.folder, self.sizes, self.workers = folder, (rows, 2 * rows), workers
        self.source, self.runs, some = {}, [], []
        for n in self.sizes:
            self.source[n] = folder / f"source-{n}"
            log(f"bench: generating {n:,} rows")
            shutil.rmtree(self.source[n], ignore_errors=True)
            some = generate(self.source[n], n)
        self.tokenizer = tokenizer or make_tokenizer(folder / "tokenizer", some, VOCABULARY)
        self.language = language or make_language_model(folder / "lid.bin")
        self.keys = load(MODEL, ROUND)

    def run(self, what: str, rows: int, command: list[object], output: Path, **env: object) -> Run:
        log(f"bench: {what}, {rows:,} rows")
        shutil.rmtree(output, ignore_errors=True)
        os.sync()
        for path in self.source[rows].rglob("*.jsonl"):  # into the page cache
            with open(path, "rb") as file:
                while file.read(1 << 24):
                    pass
        given = {name: str(value) for name, value in env.items()}
        usage = measure([*map(str, command)], {"TOKENIZERS_PARALLELISM": "false"} | given, self.folder / "log.txt")
        size = sum(path.stat().st_size for path in output.rglob("*.jsonl"))
        self.runs.append(Run(what, ROUND, rows, usage, size))
        return self.runs[-1]

    def plain(self, rows: int) -> Path:
        target = self.folder / "plain"
        limits = [self.keys["CURATE_MAX_TOKENS"], self.keys["CURATE_MAX_COMPLETION"]]
        files = [self.source[rows], target, self.tokenizer, self.language]
        self.run(PLAIN, rows, [sys.executable, HERE / "plain_curation.py", *files, *limits], target)
        return target / "training.jsonl"

    def ours(self, rows: int) -> Path:
        """As the README types it: with the report of token lengths at its end."""
        work = self.folder / "ours"
        env = {"DATA_SRC": self.source[rows], "TOKENIZER": self.tokenizer, "LANG_MODEL": self.language}
        env |= {"LANG_MODEL_SHA256": sha256(self.language), "WORK": work, "WORKERS": self.workers}
        self.run(OURS, rows, [ROOT / "scripts/data.sh", MODEL, ROUND], work, **env)
        return Paths(work, MODEL, ROUND, self.keys).rows

    def all(self) -> None:
        small, large = self.sizes
        theirs, mine = self.plain(small), self.ours(small)
        rows = same_rows(theirs, mine)
        log(f"bench: the same {rows:,} rows in the same order")
        shutil.rmtree(theirs.parent)
        self.ours(large)

    def table(self) -> str:
        lines = [f"{'':<26} {'rows':>9} {'s':>8} {'rows/s':>8}  peak RSS, MiB  peak PSS, MiB"]
        for r in self.runs:
            rate, (rss, pss) = ratio(r.rows, r.usage.seconds), (size / 2**20 for size in (r.usage.rss, r.usage.pss))
            lines.append(f"{r.what:<26} {r.rows:>9,} {r.usage.seconds:8.1f} {rate:>8}  {rss:13,.0f}  {pss:13,.0f}")
        plain, small, large = self.runs
        faster = ratio(plain.usage.seconds, small.usage.seconds, ".1f")
        grown = ratio(large.usage.rss, small.usage.rss, ".2f")
        lines.append(
            f"{faster} times as fast with {self.workers} workers; twice the rows take {grown} times the memory"
        )
        return "\n".join(lines)


def same_rows(theirs: Path, mine: Path) -> int:
    """The number of rows of two files that hold the same ones in the same order. Raises Failure when they do not."""
    count = 0
    with open(theirs, "rb") as left, open(mine, "rb") as right:
        while True:
            pair = left.readline(), right.readline()
            if not any(pair):
                return count
            if not all(pair) or json.loads(pair[0]) != json.loads(pair[1]):
                raise Failure(f"row {count + 1} of {mine} is not the plain loop's; fix it")
            count += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, help="for the input, the outputs and the log; some 2 GB at the default size"
    )
    parser.add_argument("--rows", type=int, default=50_000, help="of the smaller input (default: 50,000)")
    parser.add_argument("--tokenizer", type=Path, help="folder of a tokenizer with a template; else one is trained")
    parser.add_argument("--lang-model", type=Path, help="a fastText language model; else a small one is trained")
    parser.add_argument("--workers", type=int, default=2, help="processes of ours (default: 2)")
    parser.add_argument("--save", type=Path, help="write the figures to this JSON file as well")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is measured has to end with us
    bench = Bench(args.folder, args.rows, args.tokenizer, args.lang_model, args.workers)
    bench.all()
    table, commit = bench.table(), code_identity()
    print(table)
    print(f"{hardware()}; commit {commit['commit'][:12]}{' and changes' if commit['dirty'] else ''}")
    if args.save:
        args.save.parent.mkdir(parents=True, exist_ok=True)
        facts = {"hardware": hardware(), "code": commit, "tokenizer": "given" if args.tokenizer else "trained"}
        write_json(args.save, facts | {"runs": [asdict(r) for r in bench.runs], "table": table.splitlines()})
    shutil.rmtree(args.folder / "ours", ignore_errors=True)


if __name__ == "__main__":
    errors.run(main)
