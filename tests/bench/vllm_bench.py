"""Time engine vllm, driver and file included, against vLLM's own loop, on a CPU, with the same prompts and seeds.

    python tests/bench/vllm_bench.py FOLDER [--rows 128]

Runs alternate in one process. Both have to give the same answers, or the bench fails. Needs scripts/vllm-cpu.sh.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "python"))

from data_bench import hardware

from sft.lib import errors
from sft.lib.done import code_identity
from sft.lib.errors import Failure, usage
from sft.lib.files import write_json
from sft.lib.progress import log, ratio

NAMES = {"plain": "vLLM's LLM.generate", "ours": "engine vllm, with driver and file"}
ROUNDS = 4


def time_loops(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    python = Path(os.environ.get("VLLM_VENV") or Path(os.environ.get("VENV", sys.prefix)) / "vllm") / "bin/python"
    if not python.is_file():
        raise Failure(f"{python} is not there; run: scripts/vllm-cpu.sh")
    log(f"bench: {rows} answers, {rounds} times each, after one to warm up")
    env = os.environ | {"PYTHONPATH": f"{ROOT}/python:{ROOT}/tests/eval", "VLLM_CPU_KVCACHE_SPACE": "1"}
    command = [python, HERE / "vllm_loops.py", folder, str(rows), str(rounds)]
    with open(folder / "log.txt", "w") as out:
        done = subprocess.run(command, env=env, stdout=out, stderr=subprocess.STDOUT)
    if done.returncode:
        raise Failure(
            f"vLLM's process failed ({(folder / 'log.txt').read_text().strip()[-300:]}); see {folder}/log.txt"
        )
    return json.loads((folder / "runs.json").read_text())


def table(tokens: int, runs: dict[str, list[list[float]]]) -> list[str]:
    """Medians of each, and the median of the ratios of runs that were beside each other."""
    lines = [f"{'':<36} {'s':>7} {'CPU s':>7} {'tokens/s':>9}"]
    for name, what in NAMES.items():
        wall, cpu = (median(run[n] for run in runs[name]) for n in (0, 1))
        lines.append(f"{what:<36} {wall:7.2f} {cpu:7.2f} {ratio(tokens, wall):>9}")
    pairs = list(zip(runs["plain"], runs["ours"], strict=True))
    speed, cpu = (
        median(plain[0] / ours[0] for plain, ours in pairs),
        median(ours[1] / plain[1] for plain, ours in pairs),
    )
    return [*lines, f"{speed:.2f} times the tokens/s, with {cpu:.2f} times the CPU"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the model, the answers and the log; some MB")
    parser.add_argument("--rows", type=int, default=128, help="answers (default: 128, of 96 tokens)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each (default: {ROUNDS})")
    parser.add_argument("--save", type=Path, help="write the figures to this JSON file as well")
    args = parser.parse_args()
    if args.rows < 1 or args.rounds < 1:
        usage("--rows and --rounds; give numbers from 1 up")
    args.folder.mkdir(parents=True, exist_ok=True)
    made = time_loops(args.folder, args.rows, args.rounds)
    shown, commit = table(made["tokens"], made["runs"]), code_identity()
    print("\n".join(shown))
    dirty = " and changes" if commit["dirty"] else ""
    print(f"vLLM {made['version']}, {hardware()}; commit {commit['commit'][:12]}{dirty}")
    if args.save:
        args.save.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.save, made | {"hardware": hardware(), "code": commit, "table": shown})


if __name__ == "__main__":
    errors.run(main)
