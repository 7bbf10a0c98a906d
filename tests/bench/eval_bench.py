"""Time grading and metrics against NeMo-Skills' way, on the same generated answers, by today's rule.

    python tests/bench/eval_bench.py FOLDER [--rows 4096]

The answers are those of a benchmark with 64 samples: most are the right one or one of few wrong ones, a fifth of the
expected ones are TeX. NeMo-Skills' way is one process, which compares each answer for itself; it is written from a
description (plain_eval.py). Both have to give the same three scores, or the bench fails. Beside them the release's rule
and ours are timed, which no plain loop is there for.
"""

import argparse
import json
import random
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "python"))

from data_bench import hardware
from measure import Usage, measure

from sft.lib import errors
from sft.lib.done import code_identity
from sft.lib.errors import Failure
from sft.lib.files import write_json
from sft.lib.progress import log, ratio

K = 64
PLAIN = "NeMo-Skills' way, one process"
SHAPES = (
    "\\frac{A}{B}",
    "A\\sqrt{B}",
    "\\frac{A\\sqrt{B}}{C}",
    "(A, B)",
    "A, B, C",
    "A\\pi",
    "2^{A}",
    "\\frac{A-\\sqrt{B}}{C}",
)


def fill(shape: str, draw: random.Random) -> str:
    """A shape with numbers for its capitals."""
    return "".join(str(draw.randint(2, 99)) if letter in "ABC" else letter for letter in shape)


def generate(path: Path, rows: int) -> int:
    """Write rows // 64 problems of 64 answers each; returns the number of rows."""
    draw = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for problem in range(max(1, rows // K)):
            gold = fill(draw.choice(SHAPES), draw) if problem % 5 == 0 else str(draw.randint(0, 999))
            other = [
                fill(draw.choice(SHAPES), draw) if problem % 5 == 0 else str(draw.randint(0, 999)) for _ in range(12)
            ]
            same = [gold, gold.replace("frac", "dfrac"), f"{gold}.", f" {gold}", f"\\text{{{gold}}}"]
            skill = draw.random()
            for sample in range(K):
                answer = draw.choice(same) if draw.random() < skill else draw.choice([*other, None])
                row = {"problem": f"p{problem}", "sample": sample, "expected_answer": gold, "answer": answer}
                file.write(json.dumps(row) + "\n")
    return max(1, rows // K) * K


def cpu_seconds() -> float:
    """Of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Bench:
    def __init__(self, folder: Path, rows: int):
        self.folder, self.source = folder, folder / "rows.jsonl"
        self.rows = generate(self.source, rows)
        self.runs: dict[str, Usage] = {}
        self.cpu: dict[str, float] = {}

    def run(self, what: str, script: str, *more: str) -> dict[str, float]:
        log(f"bench: {what}, {self.rows:,} answers")
        out = self.folder / "scores.json"
        out.unlink(missing_ok=True)
        command = [sys.executable, str(HERE / script), str(self.source), str(out), str(K), *more]
        before = cpu_seconds()
        self.runs[what] = measure(command, {}, self.folder / "log.txt")
        self.cpu[what] = cpu_seconds() - before
        return json.loads(out.read_text())

    def all(self) -> None:
        theirs, mine = self.run(PLAIN, "plain_eval.py"), self.run("ours, today's rule", "ours_eval.py", "today")
        if any(abs(theirs[name] - mine[name]) > 1e-3 for name in theirs):
            raise Failure(f"the scores {mine} are not those of NeMo-Skills' way, {theirs}; fix it")
        log(f"bench: the same scores, {mine}")
        for rule in ("release", "values"):
            self.run(f"ours, rule {rule}", "ours_eval.py", rule)

    def table(self) -> str:
        lines = [f"{'':<32} {'answers':>9} {'s':>8} {'CPU s':>8} {'answers/s':>10}  peak PSS, MiB"]
        for what, used in self.runs.items():
            rate = ratio(self.rows, used.seconds)
            figures = f"{used.seconds:8.1f} {self.cpu[what]:8.1f} {rate:>10}  {used.pss / 2**20:13,.0f}"
            lines.append(f"{what:<32} {self.rows:>9,} {figures}")
        plain, ours, *_ = self.runs.values()
        less, *_ = (ratio(self.cpu[PLAIN], cpu, ".1f") for what, cpu in self.cpu.items() if what != PLAIN)
        faster = ratio(plain.seconds, ours.seconds, ".1f")
        lines.append(f"{faster} times as fast, with {less} times less CPU, and with the errors of each score")
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the answers and the log; some MB")
    parser.add_argument("--rows", type=int, default=16_384, help="answers (default: 16,384, 256 problems)")
    parser.add_argument("--save", type=Path, help="write the figures to this JSON file as well")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is measured has to end with us
    bench = Bench(args.folder, args.rows)
    bench.all()
    table, commit = bench.table(), code_identity()
    print(table)
    print(f"{hardware()}; commit {commit['commit'][:12]}{' and changes' if commit['dirty'] else ''}")
    if args.save:
        args.save.parent.mkdir(parents=True, exist_ok=True)
        runs = {what: asdict(used) for what, used in bench.runs.items()}
        write_json(
            args.save,
            {
                **{"hardware": hardware(), "code": commit, "answers": bench.rows, "runs": runs, "cpu": bench.cpu},
                "table": table.splitlines(),
            },
        )


if __name__ == "__main__":
    errors.run(main)
