"""Before and after a training link: is everything there, what is saved, is the run done. engine.py does the training.

python python/train.py tiny 1 --work work --check     # inputs and identity; prints the last saved step, writes DONE
python python/train.py qwen7b 1 --work work --base    # the model's folder and, if there is one, its conversion's
python python/train.py qwen7b 1 --work work --open --logs DIR      # prepare a link
python python/train.py qwen7b 1 --work work --follow --logs DIR    # NeMo-RL: print its progress
python python/train.py qwen7b 1 --work work --close --logs DIR     # NeMo-RL: record it
"""

from pathlib import Path

from sft.engines import learning, registry
from sft.engines.saved import history, saved_steps
from sft.lib.done import read_done, write_done
from sft.lib.errors import Failure, run, usage
from sft.lib.files import read_jsonl
from sft.recipe.command import open_run, run_parser
from sft.recipe.engines import engine_of
from sft.recipe.keys import Recipe, stage_keys
from sft.recipe.paths import Paths
from sft.recipe.run import check_record, identity


def finish(recipe: Recipe, paths: Paths, keys: dict[str, str], inputs: dict[str, str]) -> None:
    """Write DONE for a run whose last step is saved, once: steps, links, seconds and memory from its own records."""
    if (paths.train / "DONE").is_file():
        return
    steps = recipe["STEPS"]
    metrics = history(recipe, paths)
    missing = [step for step in range(1, steps + 1) if step not in metrics]
    if not metrics:
        raise Failure(f"{paths.train}/logs has no step of a run that is at its last; restore the logs of its links")
    if missing and engine_of(recipe).logs_ahead:
        raise Failure(
            f"{paths.train}/checkpoints/training.jsonl has no step {missing[0]}; the record is not whole; restore it"
        )
    ended = paths.train / "links.jsonl"  # a link that was killed before its first save is not in it
    links = {row["link"]: row for row in read_jsonl(ended, torn_tail=True)} if ended.is_file() else {}
    write_done(
        paths.train,
        keys,
        inputs,
        steps=steps,
        unlogged=len(missing),
        final_loss=metrics[max(metrics)]["loss"],
        links=len(links),
        seconds=round(sum(link["seconds"] for link in links.values()), 1),
        peak_memory_bytes=max((link["peak_memory_bytes"] for link in links.values()), default=0),
    )


def main() -> None:
    parser = run_parser(__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="check the inputs, print the last saved step")
    action.add_argument("--base", action="store_true", help="print where the base is, and where its conversion")
    action.add_argument("--open", action="store_true", help="prepare a link")
    action.add_argument("--follow", action="store_true", help="print a link's progress until it ends")
    action.add_argument("--close", action="store_true", help="record a link")
    parser.add_argument("--logs", type=Path, help="the link's folder of logs")
    parser.add_argument("--keep", default="saved", help="checkpoints to keep: all, saved or needed (default: saved)")
    parser.add_argument("--unmade", action="store_true", help="with --check: data and model need not be there yet")
    args, recipe, paths = open_run(parser)
    engine = recipe["ENGINE"]
    if args.unmade and not args.check:
        usage("--unmade is for --check; add it, or leave it out")
    if (args.follow or args.close) and not (args.logs and args.logs.is_dir()):
        usage(f"--logs {args.logs} is not a folder; name the link's")
    if args.base:
        print(*registry.action(engine, "base_folders")(paths), sep="\n")
    elif args.open:
        registry.action(engine, "open_link")(recipe, paths, args)
    elif args.follow:
        registry.action(engine, "follow")(args.logs, recipe["STEPS"])
    elif args.close:
        registry.action(engine, "close_link")(paths, args.logs)
    elif args.unmade:
        check_record(paths, {"recipe": stage_keys(recipe, "train")})
    else:
        keys, inputs = identity(recipe, paths, args)
        steps = recipe["STEPS"]
        resume = max(saved_steps(engine, paths.train / "checkpoints"), default=0)
        if resume >= steps:
            finish(recipe, paths, keys, inputs)
        elif (paths.train / "DONE").is_file() and (paths.final / "DONE").is_file():
            resume = steps  # trained, and its checkpoints were removed (make clean-run)
        elif not resume:  # before anything is queued
            rows = read_done(paths.data, "")["rows"]["all"]
            learning.check_rows(recipe, paths.rows, rows, paths.start)
        print(resume)


if __name__ == "__main__":
    run(main)
