"""Before and after a training link with NeMo-RL: identity, leftovers, overrides, what was measured.

python python/nemo_rl_link.py qwen7b 1 --work work cache               # the model's folder, and its Megatron cache
python python/nemo_rl_link.py qwen7b 1 --work work open --logs DIR     # prepare a link
python python/nemo_rl_link.py qwen7b 1 --work work close --logs DIR    # record it
"""

import json
import os
import time
from pathlib import Path

import nemo_rl
import nemo_rl_log
import recipe as recipes
from checkpoints import KEEP, clean, prune, saved_steps
from lib import Failure, read_done, read_jsonl, recipe_hash, run, usage, write_json
from train import identity, record

SET_UP_RESERVE = 600  # seconds from the driver's start to its first step, before a link has measured them
SLACK = 1.25  # of what was measured: a shared file system is not equally fast every time


def cache_folder(paths: recipes.Paths) -> Path:
    """Where NeMo-RL looks for the base model in Megatron's format, given the folder that nemo_rl.base_cache names.

    It knows a cached model by its path alone (v0.7.0 nemo_rl/models/megatron/setup.py:449-460): a base whose RoPE was
    patched later would be taken from the cache unpatched. The folder is therefore one for each content.
    """
    done = read_done(paths.start, "run: make model")
    root = nemo_rl.base_cache(paths, recipe_hash(done["outputs"]))
    return root / f"model_{str(paths.start).replace('/', '_')}"


def run_id(model: str, round_: str, inputs: dict[str, str]) -> str:
    """The same for all links of a run, another for a run on other data."""
    return f"{model}-round{round_}-{inputs['data'][:8]}"


def reserve(train: Path, save_reserve: float) -> int:
    """Seconds of a link, from the driver's start, in which there is no training: setting up and, beyond `save_reserve`,
    saving. Measured by the run's last links, else SET_UP_RESERVE."""
    past = list(read_jsonl(train / "links.jsonl", torn_tail=True)) if (train / "links.jsonl").is_file() else []
    set_up = [link["set_up_seconds"] for link in past if link.get("set_up_seconds")]
    saves = [link["save_seconds"] for link in past if link.get("save_seconds")]
    seconds = SLACK * max(set_up[-3:]) if set_up else float(os.environ.get("SET_UP_RESERVE") or SET_UP_RESERVE)
    return round(seconds + max(0.0, SLACK * max(saves[-3:], default=0.0) - save_reserve))


def check_optimizer(checkpoint: Path, backend: str, version: nemo_rl.Version) -> None:
    """Raise Failure where NeMo-RL would resume from `checkpoint` with a fresh optimizer: it only warns of that.

    The rule: v0.7.0 nemo_rl/utils/checkpoint.py:170-190. What a file holds is left to the driver, whose warning
    nemo_rl_log.follow heeds.
    """
    if backend == "megatron":
        found = [checkpoint / "policy/weights/iter_0000000" / name for name in version.resume_files]
    else:
        found = [checkpoint / "policy/optimizer"]
    if not any(path.exists() for path in found):
        raise Failure(
            f"{checkpoint} has no optimizer state: training would go on without it; move that checkpoint away, and "
            "resume from the one before it"
        )


def open_link(model: str, round_: str, recipe: recipes.Recipe, paths: recipes.Paths, logs: Path, keep: str) -> None:
    """Check the run's identity, remove leftovers, and write what the link reads into `logs`. Raises Failure."""
    args = type("Args", (), {"model": model, "round": round_})
    keys, inputs = identity(recipe, paths, args)
    record(paths, keys, inputs)
    checkpoints = paths.train / "checkpoints"
    clean(checkpoints)
    prune("nemo-rl", checkpoints, recipe, keep)
    saved = saved_steps("nemo-rl", checkpoints)
    first = max(saved, default=0)
    version = nemo_rl.load_version(os.environ.get("NEMO_RL_VERSION", ""))
    if first:
        check_optimizer(saved[first], recipe["BACKEND"], version)
    wandb = os.environ.get("WANDB_PROJECT", "")
    link = nemo_rl.Link(logs / "metrics", wandb=wandb, run_id=run_id(model, round_, inputs))
    lines = nemo_rl.overrides(recipe, paths, link, version)
    (logs / "overrides").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (logs / "reserve").write_text(f"{reserve(paths.train, float(os.environ.get('SAVE_RESERVE') or 120))}\n")
    (logs / "version").write_text(f"{version.name} {version.marker}\n", encoding="utf-8")
    write_json(logs / "LINK", {"started": time.time(), "from": first})


def close_link(paths: recipes.Paths, logs: Path) -> None:
    """Add the link to links.jsonl, if it made a step."""
    if found := nemo_rl_log.summary(logs):
        with open(paths.train / "links.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")


def main() -> None:
    parser = recipes.parser(__doc__)
    parser.add_argument("what", choices=("cache", "open", "close"))
    parser.add_argument("--logs", type=Path, help="the link's folder")
    parser.add_argument("--keep", default="saved", help="checkpoints to keep: all, saved or needed (default: saved)")
    args, recipe, paths = recipes.open_run(parser)
    if recipe["ENGINE"] != "nemo-rl":
        usage(f"recipe {args.model} has ENGINE={recipe['ENGINE']}; this is for nemo-rl")
    if args.keep not in KEEP:
        usage(f"KEEP_CHECKPOINTS={args.keep}; it is {', '.join(KEEP)}")
    if args.what == "cache":
        print(paths.start, cache_folder(paths), sep="\n")
        return
    if args.logs is None or not args.logs.is_dir():
        raise Failure(f"--logs {args.logs} is no folder; name the link's")
    if args.what == "open":
        open_link(args.model, args.round, recipe, paths, args.logs, args.keep)
    else:
        close_link(paths, args.logs)


if __name__ == "__main__":
    run(main)
