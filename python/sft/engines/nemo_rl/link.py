"""Before and after a training link with NeMo-RL: identity, leftovers, overrides, what was measured.

The link itself is NeMo-RL's own driver: scripts/engines/nemo-rl.sh.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from sft.engines.curves import project, run_id
from sft.engines.nemo_rl import driver_log
from sft.engines.nemo_rl.config import Link, base_cache, overrides
from sft.engines.nemo_rl.overrides import Version, load_version
from sft.engines.nemo_rl.saved import KEEP, clean, prune
from sft.engines.saved import saved_steps
from sft.lib.done import read_done, recipe_hash
from sft.lib.errors import Failure, usage
from sft.lib.files import read_jsonl, write_json
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths
from sft.recipe.run import identity, record

SET_UP_RESERVE = 600  # seconds from the driver's start to its first step, before a link has measured them
SLACK = 1.25  # of what was measured: a shared file system is not equally fast every time


def cache_folder(paths: Paths) -> Path:
    """Where NeMo-RL looks for the base model in Megatron's format, given the folder that config.base_cache names.

    It knows a cached model by its path alone (v0.7.0 nemo_rl/models/megatron/setup.py:449-460): a base whose RoPE was
    patched later would be taken from the cache unpatched. The folder is therefore one for each content.
    """
    done = read_done(paths.start, "run: make model")
    root = base_cache(paths, recipe_hash(done["outputs"]))
    return root / f"model_{str(paths.start).replace('/', '_')}"


def reserve(train: Path, save_reserve: float) -> int:
    """Seconds of a link, from the driver's start, in which there is no training: setting up and, beyond `save_reserve`,
    saving. Measured by the run's last links, else SET_UP_RESERVE."""
    past = list(read_jsonl(train / "links.jsonl", torn_tail=True)) if (train / "links.jsonl").is_file() else []
    set_up = [link["set_up_seconds"] for link in past if link.get("set_up_seconds")]
    saves = [link["save_seconds"] for link in past if link.get("save_seconds")]
    seconds = SLACK * max(set_up[-3:]) if set_up else float(os.environ.get("SET_UP_RESERVE") or SET_UP_RESERVE)
    return round(seconds + max(0.0, SLACK * max(saves[-3:], default=0.0) - save_reserve))


def check_optimizer(checkpoint: Path, backend: str, version: Version) -> None:
    """Raise Failure where NeMo-RL would resume from `checkpoint` with a fresh optimizer: it only warns of that.

    The rule: v0.7.0 nemo_rl/utils/checkpoint.py:170-190. What a file holds is left to the driver, whose warning
    driver_log.follow heeds.
    """
    if backend == "megatron":
        found = [checkpoint / "policy/weights/iter_0000000" / name for name in version.resume_files]
    else:
        found = [checkpoint / "policy/optimizer"]
    if not any(path.exists() for path in found):
        raise Failure(
            f"{checkpoint} has no optimizer state: training would continue without it; move that checkpoint away, and "
            "resume from the one before it"
        )


def base_folders(paths: Paths) -> list[Path]:
    """What training starts from, and the same in Megatron's format."""
    return [paths.start, cache_folder(paths)]


def open_link(recipe: Recipe, paths: Paths, args: Any) -> None:
    """Check the run's identity, remove leftovers, and write what the link reads into `args.logs`. Raises Failure."""
    logs, keep = args.logs, args.keep
    if keep not in KEEP:
        usage(f"KEEP_CHECKPOINTS={keep}; it is {', '.join(KEEP)}")
    if logs is None or not logs.is_dir():
        raise Failure(f"--logs {logs} is not a folder; name the link's")
    keys, inputs = identity(recipe, paths, args)
    record(paths, keys, inputs)
    checkpoints = paths.train / "checkpoints"
    clean(checkpoints)
    prune(checkpoints, recipe, keep)
    saved = saved_steps("nemo-rl", checkpoints)
    first = max(saved, default=0)
    version = load_version(os.environ.get("NEMO_RL_VERSION", ""))
    if first:
        check_optimizer(saved[first], recipe["BACKEND"], version)
    link = Link(logs / "metrics", wandb=project(), run_id=run_id(paths.train))
    lines = overrides(recipe, paths, link, version)
    (logs / "overrides").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (logs / "reserve").write_text(f"{reserve(paths.train, float(os.environ.get('SAVE_RESERVE') or 120))}\n")
    (logs / "version").write_text(f"{version.name} {version.marker}\n", encoding="utf-8")
    write_json(logs / "LINK", {"started": time.time(), "from": first})


def follow(logs: Path, steps: int) -> None:
    driver_log.follow(logs, steps)


def close_link(paths: Paths, logs: Path) -> None:
    """Add the link to links.jsonl, if it made a step."""
    if found := driver_log.summary(logs):
        with open(paths.train / "links.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
