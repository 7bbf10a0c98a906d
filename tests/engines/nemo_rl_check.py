"""One round of tiny-nemo-rl by NeMo-RL itself: its chain in Slurm, of which the first link is killed; what it made.

    python tests/engines/nemo_rl_check.py tiny-nemo-rl 1 --work WORK      # of scripts/check-nemo-rl.sh

Writes check.json into the run: the figures that were compared. Raises Failure where one is not what it has to be.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "python"))
from sft.engines.nemo_rl import driver_log
from sft.engines.nemo_rl import row as nemo_rl_row
from sft.engines.saved import saved_steps
from sft.lib.errors import Failure, run
from sft.lib.files import read_json, write_json
from sft.lib.progress import log
from sft.recipe.command import open_run, run_parser
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths
from sft.rows.dataset import SftDataset

AFTER = 8  # steps that the first link goes on for after a checkpoint; then it is killed
FIRST_LOSS = 1e-4  # of a loss of 6, printed with four decimals; a wrong base of RoPE makes 2e-4
RESUMED = 2e-4  # two links, two processes: the same sums in the same order
MINUTES = 4  # of the second link's time limit: NeMo-RL saves and ends before it
SCORE = 0.9  # of the sums that the model has not seen; the untrained one has 0
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


def call(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def state(job: str) -> str:
    """Slurm's word for how a job stands."""
    fields = dict(word.split("=", 1) for word in call("scontrol", "show", "job", "-o", job).split() if "=" in word)
    return fields["JobState"]


def losses(link: Path) -> dict[int, float]:
    """Optimizer step -> loss of one link."""
    return {row["step"] + 1: row["loss"] for row in driver_log.rows(link)}


def first_batch(checkpoint: Path, rows: int, batch: int) -> list[int]:
    """The rows of the first step, by what a checkpoint of the first epoch says of the data loader's random order."""
    import torch

    def find(node: Any) -> Any:
        if isinstance(node, dict):
            if "generator" in node:
                return node["generator"]
            return next((found for value in node.values() if (found := find(value)) is not None), None)
        return None

    state = find(torch.load(checkpoint / "train_dataloader.pt", weights_only=False))
    generator = torch.Generator()
    generator.set_state(state)
    return torch.randperm(rows, generator=generator).tolist()[:batch]


def transformers_loss(paths: Paths, recipe: Recipe, rows: list[int] | None) -> tuple[float, int]:
    """Mean loss of the base model on `rows`, each by itself, in float32; and the tokens that have one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(paths.start)
    model = AutoModelForCausalLM.from_pretrained(paths.start, dtype=torch.float32).eval()
    data = SftDataset(str(paths.rows), recipe["SEQ_LEN"], "<|im_end|>", tokenizer)
    total, tokens = 0.0, 0
    with torch.no_grad():
        for row in rows:
            view = nemo_rl_row.view(data, row)
            ids, mask = torch.tensor([view.ids]), torch.tensor(view.loss[1:])
            each = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
            total, tokens = total + each[mask].sum().item(), tokens + int(mask.sum())
    return total / tokens, tokens


def memory(work: Path) -> int:
    """Resident bytes of what the Ray of this check runs now: driver, workers and Ray's own processes."""
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if str(work).encode() in (folder / "environ").read_bytes():
                    total += int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except OSError:
                continue
    return total


def main() -> None:
    args, recipe, paths = open_run(run_parser(__doc__))
    took = train(args.model, args.round, recipe["SAVE_EVERY"], paths)
    found = judge(recipe, paths) | took
    write_json(paths.run / "check.json", found)
    print(json.dumps(found, indent=1))


def train(model: str, round_: str, every: int, paths: Paths) -> dict[str, Any]:
    """Run the round's chain and kill its first link some steps after a checkpoint; minutes, memory, states of jobs."""
    began = time.time()
    call("scripts/submit.sh", "train", model, round_)
    lines = (paths.run / "chain.tsv").read_text(encoding="utf-8").splitlines()
    jobs = [(name, job) for _, name, job in (line.split("\t") for line in lines)]
    first = next(job for name, job in jobs if name == "train")
    link, peak = paths.train / "logs" / f"{first}-0", 0
    while max(losses(link), default=0) < every + AFTER:
        if state(first) in ENDED:
            raise Failure(f"the first link ended before step {every + AFTER}; see {paths.run}/logs/train-{first}.out")
        peak = max(peak, memory(paths.work))
        time.sleep(1)
    second = [job for name, job in jobs if name == "train"][1]
    call("scontrol", "update", f"jobid={second}", f"timelimit={MINUTES}")  # before it starts, which is when it asks
    call("scancel", "--signal=KILL", "--full", first)
    log(f"check-nemo-rl: killed job {first} at step {max(losses(link))}")
    while any(state(job) not in ENDED for _, job in jobs):
        peak = max(peak, memory(paths.work))
        time.sleep(2)
    minutes = (time.time() - began) / 60
    states = [(name, state(job)) for name, job in jobs]
    trains = [word for name, word in states if name == "train"]
    if trains[0] == "COMPLETED" or {word for name, word in states if name != "train"} | {trains[2]} != {"COMPLETED"}:
        raise Failure(f"the chain ended as {states}; see {paths.run}/logs")

    return {"minutes": round(minutes, 1), "peak_memory_gib": round(peak / 2**30, 2), "jobs": states}


def judge(recipe: Recipe, paths: Paths) -> dict[str, Any]:
    """The figures of a finished round. Raises Failure where one is not what it has to be."""
    links = [losses(folder) for folder in driver_log.links(paths.train)]
    links = [link for link in links if link]
    again = sorted(set(links[0]) & set(links[1]))
    if len(again) < AFTER - 1 or (again[0] - 1) % recipe["SAVE_EVERY"]:
        raise Failure(f"the second link trained steps {again} again, not those after the save; see {paths.train}/logs")
    resumed = max(abs(links[0][step] - links[1][step]) for step in again)
    history = driver_log.history(paths.train)
    if list(history) != list(range(1, recipe["STEPS"] + 1)):
        raise Failure(f"steps are missing in {paths.train}/logs: {len(history)} of {recipe['STEPS']}")
    saved = saved_steps("nemo-rl", paths.train / "checkpoints")
    rows = sum(1 for _ in open(paths.rows, encoding="utf-8"))
    batch = first_batch(next(iter(saved.values())), rows, recipe["GLOBAL_BATCH"])
    want, tokens = transformers_loss(paths, recipe, batch)
    scores = read_json(paths.eval / "DONE")["scores"]
    found = {
        "first_loss": links[0][1],
        "first_loss_transformers": round(want, 5),
        "first_tokens": tokens,
        "resumed_steps": again,
        "resumed_difference": resumed,
        "last_loss": history[max(history)]["loss"],
        "step_seconds": sorted(row["seconds"] for row in history.values())[len(history) // 2],
        "scores": scores,
    }
    score = scores["trained"]["tiny"]["cot"]["pass@1"]
    if abs(found["first_loss"] - want) > FIRST_LOSS:
        raise Failure(f"the first loss is {found['first_loss']}, transformers' {want:.5f}; see {paths.train}/logs")
    if resumed > RESUMED:
        raise Failure(f"losses after resuming differ by {resumed}; see {paths.train}/logs")
    if score < SCORE:
        raise Failure(f"{score:.0%} of the sums are right, not {SCORE:.0%}; see {paths.eval}")
    return found


if __name__ == "__main__":
    run(main)
