"""Record what NeMo-RL itself wrote and printed in the runs of tiny-nemo-rl, for what stands in for it in the tests.

    python tests/engines/nemo_rl_trace.py --work WORK --checkout NEMO_RL_DIR --to tests/traces/nemo-rl-v0.7.0.json

Of each round: the files of the last checkpoint with their sizes and kinds, the keys of those that have some; the lines
of the first link that the project reads, and every other line of the driver once, as a pattern; how the links ended.
Paths and numbers of this machine are not in it.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "python"))
from sft.engines.nemo_rl import driver_log
from sft.engines.saved import saved_steps
from sft.lib.errors import run
from sft.lib.files import read_json, write_json
from sft.recipe.paths import Paths
from sft.recipe.read import load, rounds

MODEL = "tiny-nemo-rl"
STEPS = 12  # of a link whose lines are recorded as they are
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
WORKER = re.compile(r"^(\(\w+( pid=\d+)?[^)]*\)|\(pid=\d+\))")


def kind(path: Path) -> str:
    """What a file is: json, yaml, torch, safetensors, text, or binary."""
    head = path.read_bytes()[:4]
    if path.suffix == ".json":
        return "json"
    if path.suffix == ".yaml":
        return "yaml"
    if path.suffix == ".safetensors":
        return "safetensors"
    if head == b"PK\x03\x04":
        return "torch"
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return "binary"
    return "text"


def keys(path: Path, what: str) -> list[str] | None:
    """The names at the top of a JSON, YAML, torch or safetensors file."""
    if what == "json":
        found = read_json(path)
    elif what == "yaml":
        import yaml

        found = yaml.unsafe_load(path.read_text(encoding="utf-8"))
    elif what == "torch":
        import torch

        found = torch.load(path, map_location="cpu", weights_only=False)
    elif what == "safetensors":
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            return sorted(file.keys())
    else:
        return None
    return sorted(map(str, found)) if isinstance(found, dict) else None


def describe(folder: Path) -> dict[str, Any]:
    """Path below `folder` -> bytes, kind and, where there are some, keys of each file."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            what = kind(path)
            fact: dict[str, Any] = {"bytes": path.stat().st_size, "kind": what}
            try:
                names = keys(path, what)
            except Exception as error:  # of a class that is not installed here
                names, fact["unread"] = None, type(error).__name__
            found[str(path.relative_to(folder))] = fact | ({"keys": names} if names is not None else {})
    return found


def pattern(line: str) -> str:
    """A line without what differs from run to run."""
    line = re.sub(r"(/[\w.+=@-]+){2,}/?", "PATH", line)
    line = re.sub(r"\b[0-9a-f]{8,}\b", "HEX", line)
    return re.sub(r"\d+(\.\d+)*(e[-+]?\d+)?", "N", line)


def lines(logs: list[Path]) -> dict[str, Any]:
    """The driver's own lines: the first link's first steps as they are, then each pattern once; and how many were
    workers'."""
    driver, workers, patterns, steps = [], 0, [], 0
    for raw in (line for log in logs for line in log.read_text(encoding="utf-8", errors="replace").splitlines()):
        line = COLOUR.sub("", raw)
        if WORKER.match(line):
            workers += 1
            continue
        steps += bool(driver_log.STEP.match(line))
        if steps and steps <= STEPS and (driver_log.STEP.match(line) or line.startswith("  • ") or "Saving" in line):
            driver.append(line)
        if (seen := pattern(line)[:160]) not in patterns and len(patterns) < 400:
            patterns.append(seen)
    return {"first_steps": driver, "patterns": patterns, "workers_lines": workers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where make check-nemo-rl kept its runs")
    parser.add_argument("--checkout", type=Path, required=True, help="NEMO_RL_DIR of the runs")
    parser.add_argument("--to", type=Path, required=True, help="the file to write")
    args = parser.parse_args()
    text = (args.checkout / "nemo_rl/package_info.py").read_text(encoding="utf-8")
    version = ".".join(re.findall(r"^(?:MAJOR|MINOR|PATCH) = (\d+)$", text, re.M))
    found = {}
    for round_ in rounds(MODEL):
        recipe = load(MODEL, round_)
        paths = Paths(args.work, MODEL, round_, recipe)
        folders = [folder for folder in driver_log.links(paths.train) if any(driver_log.rows(folder))]
        saved = saved_steps("nemo-rl", paths.train / "checkpoints")
        if not folders or not saved:
            continue
        rows = list(driver_log.rows(folders[0]))[:STEPS]
        ends = [(f / "end").read_text().strip() if (f / "end").is_file() else None for f in folders]
        found[round_] = {
            "backend": recipe["BACKEND"],
            "checkpoint": describe(saved[max(saved)]),
            "log": lines([folder / "driver.log" for folder in folders]),
            "losses": [row["loss"] for row in rows],
            "statuses": ends,
        }
        export = paths.convert / "engine"
        if export.is_dir():
            found[round_]["export"] = describe(export)
        check = paths.run / "check.json"
        if check.is_file():
            found[round_]["check"] = read_json(check)
        if recipe["BACKEND"] == "megatron":
            cache = next((args.work / "models/.megatron").glob("*/model_*"))
            found[round_]["cache"] = describe(cache)
    args.to.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.to, {"nemo_rl": version, "rounds": found})
    print(f"{args.to}: {args.to.stat().st_size:,} bytes, rounds {', '.join(found)}")
    json.loads(args.to.read_text())


if __name__ == "__main__":
    run(main)
