"""Time make data against the published script, a plain loop, and bare copies, on the same generated rows.

    python tests/bench/data_bench.py FOLDER [--rows 19400] [--tokenizer DIR]

Each is run for --rows and for five times as many rows: the difference gives the rate on the margin, without imports
and start-up. Every run finds its input in the page cache and no earlier writes waiting. Ours has to make the same rows
as the published script, or the bench fails. Its report of token lengths, which the others do not have, is timed apart.
"""

import argparse
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "python"))

from generate import generate
from measure import Usage, measure

from sft.data import tiny
from sft.lib import errors
from sft.lib.done import code_identity
from sft.lib.errors import Failure
from sft.lib.files import write_json
from sft.lib.progress import log, ratio

HERE = Path(__file__).parent
SPLITS = ("cot", "tir", "genselect")


@dataclass
class Run:
    what: str
    round: str
    rows: int
    usage: Usage
    output: int  # bytes


def digests(files: list[Path]) -> list[bytes]:
    """Of every row's input and output, sorted: two outputs with the same rows have the same."""
    import orjson

    found = []
    for path in files:
        with open(path, "rb") as file:
            for line in file:
                row = orjson.loads(line)
                pair = f"{len(row['input'])} {row['input']}{row['output']}"
                found.append(hashlib.blake2b(pair.encode(), digest_size=16).digest())
    return sorted(found)


def make_tokenizer(folder: Path, source: Path) -> Path:
    """A tokenizer of Qwen2's kind, trained on some of the text; for machines without the real one."""
    if not (folder / "tokenizer.json").is_file():
        import pyarrow.parquet as pq
        from transformers import Qwen2Tokenizer

        text = pq.ParquetFile(sorted(source.glob("cot-*"))[0]).read_row_group(0, ["generated_solution"])
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        tokenizer = Qwen2Tokenizer(unk_token=None).train_new_from_iterator(
            text.column(0).to_pylist(), 30_000, new_special_tokens=special, show_progress=False
        )
        tokenizer.chat_template = tiny.TEMPLATE
        tokenizer.save_pretrained(folder)
    return folder


class Bench:
    def __init__(self, folder: Path, rows: int, tokenizer: Path | None):
        self.folder, self.sizes = folder, (rows, 5 * rows)
        self.source = {n: folder / f"source-{n}" for n in self.sizes}
        for n, path in self.source.items():
            log(f"bench: generating {n:,} rows")
            generate(path, n)
        self.tokenizer = tokenizer or make_tokenizer(folder / "tokenizer", self.source[rows])
        self.runs: list[Run] = []

    def run(self, what: str, round_: str, rows: int, command: list[str], output: Path, **env: str) -> Run:
        log(f"bench: {what}, round {round_}, {rows:,} rows")
        shutil.rmtree(output, ignore_errors=True)
        os.sync()
        for path in self.source[rows].iterdir():  # into the page cache
            with open(path, "rb") as file:
                while file.read(1 << 24):
                    pass
        usage = measure(command, env, self.folder / "log.txt")
        size = sum(path.stat().st_size for path in output.rglob("*.jsonl"))
        self.runs.append(Run(what, round_, rows, usage, size))
        return self.runs[-1]

    def published(self, round_: str, rows: int) -> Path:
        target, source = self.folder / "published", self.source[rows]
        prepare = [sys.executable, str(HERE / "published.py"), *map(str, (source, target, self.tokenizer)), round_]
        # Round 1 mixes with cat and shuf, whole file in memory; round 2 trains on the parts.
        script = '"${@:2}"'
        if round_ == "1":
            script += ' && cd "$1" && cat omr-cot.jsonl omr-tir.jsonl omr-genselect.jsonl >omr-all.jsonl'
            script += " && shuf -o omr-all.jsonl omr-all.jsonl"
        self.run("published script", round_, rows, ["bash", "-c", script, "-", str(target), *prepare], target)
        return target

    def ours(self, round_: str, rows: int) -> Path:
        """As the README types it: with the report of token lengths at its end."""
        work = self.folder / "ours"
        env = {"DATA_SRC": str(self.source[rows]), "TOKENIZER": str(self.tokenizer), "WORK": str(work)}
        self.run("make data", round_, rows, [str(ROOT / "scripts/data.sh"), "qwen7b", round_], work, **env)
        return work / "data" / "openmathreasoning" / f"round{round_}"

    def compare(self, round_: str, rows: int) -> None:
        theirs = self.published(round_, rows)
        wanted = digests([theirs / f"omr-{split}.jsonl" for split in SPLITS])
        shutil.rmtree(theirs)
        made = digests([self.ours(round_, rows) / "all.jsonl"])
        if made != wanted:
            raise Failure(
                f"round {round_}: ours made {len(made):,} rows, the published script {len(wanted):,} others; fix it"
            )
        log(f"bench: round {round_}: the same {len(made):,} rows, byte for byte")

    def floor(self, rows: int, output: int) -> None:
        """Read the input and write as many bytes as make data does."""
        target = self.folder / "floor"
        script = 'mkdir "$1" && cat "$2"/* >/dev/null && head -c "$3" /dev/zero >"$1/copy.jsonl"'
        command = ["bash", "-c", script, "-", str(target), str(self.source[rows]), str(output)]
        self.run("plain copies", "1", rows, command, target)
        shutil.rmtree(target)

    def all(self) -> None:
        for rows in self.sizes:
            self.compare("1", rows)
            output = self.runs[-1].output
            target = self.folder / "plain"
            command = [sys.executable, str(HERE / "plain.py"), str(self.source[rows]), str(target)]
            self.run("plain loop, one process", "1", rows, command, target)
            shutil.rmtree(target)
            self.floor(rows, output)
        for rows in self.sizes:
            self.compare("2", rows)

    def one(self, what: str, round_: str, rows: int) -> Run:
        return next(r for r in self.runs if (r.what, r.round, r.rows) == (what, round_, rows))

    def margin(self, what: str, round_: str) -> float:
        """Rows a second between the two sizes; 0.0 where the larger took no longer, so that there is no such figure."""
        small, large = (self.one(what, round_, rows) for rows in self.sizes)
        seconds = large.usage.seconds - small.usage.seconds
        return (large.rows - small.rows) / seconds if seconds > 0 else 0.0

    def table(self) -> str:
        small, large = self.sizes
        lines = [
            f"{'':<28} round {small:>9,} rows {large:>9,} rows   rows/s on  {'peak RSS, MiB':<14}  peak PSS, MiB",
            f"{'':<28} {'':<5} {'s':>14} {'s':>14}  the margin",
        ]
        for what, round_ in dict.fromkeys((r.what, r.round) for r in self.runs):
            both = [r for r in self.runs if (r.what, r.round) == (what, round_)]
            seconds = [f"{r.usage.seconds:14.1f}" for r in both] + [f"{'':14}"] * (2 - len(both))
            rate = self.margin(what, round_) if len(both) == 2 else None
            margin = f"{'' if rate is None else f'{rate:,.0f}' if rate else '-':>11}"
            rss, pss = (
                " ".join(f"{size / 2**20:6,.0f}" for size in sizes)
                for sizes in ([r.usage.rss for r in both], [r.usage.pss for r in both])
            )
            lines.append(f"{what:<28} {round_:<5} {' '.join(seconds)} {margin}  {rss:<14} {pss}")
        lines.append("")
        for round_ in ("1", "2"):
            ours, theirs = (self.one(w, round_, small).usage for w in ("make data", "published script"))
            faster = ratio(self.margin("make data", round_), self.margin("published script", round_), ".1f")
            grown = ratio(self.one("make data", round_, large).usage.rss, ours.rss, ".2f")
            at_start = ratio(theirs.seconds, ours.seconds, ".1f")
            lines.append(
                f"round {round_}: {at_start} times as fast at {small:,} rows, {faster} "
                f"times on the margin; five times the rows take {grown} times the memory"
            )
        floor = ratio(self.margin("plain copies", "1"), self.margin("make data", "1"), ".1f")
        lines.append(f"round 1 takes {floor} times what plain copies of its input and output take, on the margin")
        return "\n".join(lines)


def hardware() -> str:
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ":unknown")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    cores = f"{len(os.sched_getaffinity(0))} cores of {model.split(':')[1].strip()}"
    return f"{cores}, {memory:.0f} GB, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, help="for the input, the outputs and the log; some 10 GB at the default size"
    )
    parser.add_argument("--rows", type=int, default=19_400, help="of the smaller input (default: 19,400)")
    parser.add_argument("--tokenizer", type=Path, help="folder of a tokenizer; without it one is trained on the input")
    parser.add_argument("--save", type=Path, help="write the figures to this JSON file as well")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is measured has to end with us
    bench = Bench(args.folder, args.rows, args.tokenizer)
    bench.all()
    table = bench.table()
    print(table)
    commit = code_identity()
    print(f"{hardware()}; commit {commit['commit'][:12]}{' and changes' if commit['dirty'] else ''}")
    if args.save:
        args.save.parent.mkdir(parents=True, exist_ok=True)
        facts = {"hardware": hardware(), "code": commit, "tokenizer": "trained" if not args.tokenizer else "given"}
        write_json(args.save, facts | {"runs": [asdict(r) for r in bench.runs], "table": table.splitlines()})
    subprocess.run(["rm", "-rf", args.folder / "ours"], check=True)


if __name__ == "__main__":
    errors.run(main)
