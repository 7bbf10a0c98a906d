"""Put a run's numbers together: results.json, a page, loss.png and a Markdown table.

    python python/results.py tiny 1 --work work

Reads the DONE of every stage, the training log and the graded answers; writes WORK/runs/<model>/round<N>/results/.
results.json holds the recipe's values and names what was scored. index.html shows all of it in any browser, with each
answer from generations/ beside it; answers.json holds the grades. Where there are several evaluations (eval/,
eval-<what was given>/), all are in it; when one is added the results are made anew.
"""

import shutil
from pathlib import Path
from typing import Any

from sft.engines.saved import history
from sft.eval.metrics import latest_last, merged
from sft.lib.done import is_done, new_folder, read_done, recipe_hash, write_done
from sft.lib.errors import run
from sft.lib.files import read_json, sha256, write_json
from sft.lib.progress import log
from sft.recipe.chain import ending
from sft.recipe.command import open_run, run_parser
from sft.recipe.keys import Recipe, stage_keys
from sft.recipe.paths import Paths, converted
from sft.results.page.build import page
from sft.results.plot import draw
from sft.results.tables import summary, table


def collect(paths: Paths, recipe: Recipe, again: str) -> dict[str, dict[str, Any]]:
    """The manifest of every stage; convert's is the sum over its steps. Raises Failure for the first unfinished one."""

    def finished(name: str, folder: Path) -> dict[str, dict[str, Any]]:
        return {name: read_done(folder, f"run: make {name} {again}")}

    done = finished("data", paths.data) | finished("model", paths.start) | finished("train", paths.train)
    steps = [converted(paths, step, f"run: make convert {again}") for step in recipe["AVERAGE_STEPS"]]
    done["convert"] = {
        "seconds": round(sum(step["seconds"] for step in steps), 1),
        "peak_memory_bytes": max(step["peak_memory_bytes"] for step in steps),
    }
    if ending(recipe) == "average":
        done |= finished("average", paths.average)
    return done


def evaluations(paths: Paths, again: str) -> dict[str, dict[str, Any]]:
    """Folder -> manifest of each evaluation, in the order of `latest_last`. Raises Failure without any."""
    folders = [path.parent for path in paths.run.glob("eval*/DONE")] or [paths.eval]
    return latest_last({folder.name: read_done(folder, f"run: make eval {again}") for folder in folders})


def is_newer(folder: Path, inputs: dict[str, str]) -> bool:
    """Whether these inputs are of the same run as those of the results in `folder`, with other evaluations."""
    if not (folder / "DONE").is_file():
        return False
    old = read_json(folder / "DONE")["inputs"]
    return old != inputs and all(old.get(name) == inputs[name] for name in inputs if not name.startswith("eval"))


def main() -> None:
    args, recipe, paths = open_run(run_parser(__doc__))
    again = f"MODEL={args.model} ROUND={args.round}"
    done, evals = collect(paths, recipe, again), evaluations(paths, again)
    keys = stage_keys(recipe, "results")
    inputs = done["train"]["inputs"] | {name: sha256(paths.run / name / "DONE") for name in evals}
    if is_newer(paths.results, inputs):
        shutil.rmtree(paths.results)
    if is_done(paths.results, keys, inputs):
        log(f"results: {paths.results} is already there")
    else:
        metrics = history(recipe, paths)
        main_eval = evals.get(paths.eval.name) or list(evals.values())[-1]
        result = {
            "model": args.model,
            "round": args.round,
            "code": done["train"]["code"],
            "recipe": keys,
            "recipe_sha256": recipe_hash(keys),
            # Which model each name of the scores is: in round 2 the baseline is the one that round 1 made.
            "scored": {
                "baseline": str(paths.start.relative_to(paths.work)),
                "trained": str(paths.final.relative_to(paths.work)),
            },
            "data_sha256": done["train"]["inputs"]["data"],
            "eval_inputs": main_eval["inputs"],  # hashes of the test rows and of both models
            "model_revision": done["model"].get("revision"),
            "steps": done["train"]["steps"],
            "links": done["train"]["links"],
            "final_loss": done["train"]["final_loss"],
            "evaluations": {
                name: {key: one.get(key) for key in ("grader", "decoding", "protocol", "machine", "finished")}
                for name, one in evals.items()
            },
            **{name: main_eval.get(name) for name in ("grader", "decoding", "max_tokens", "protocol", "machine")},
            "scores": merged(evals),
            "stages": {s: {k: d[k] for k in ("seconds", "peak_memory_bytes")} for s, d in (done | evals).items()},
        }
        with new_folder(paths.results) as part:
            write_json(part / "results.json", result)
            draw(metrics, f"{args.model}, round {args.round}", part / "loss.png")
            page(result, metrics, [paths.run / name for name in reversed(evals)], part)
            (part / "README.md").write_text(table(result), encoding="utf-8")
            write_done(part, keys, inputs)
    print()
    print((paths.results / "README.md").read_text(encoding="utf-8"), end="")
    print("\nfor results/README.md:", *summary(read_json(paths.results / "results.json")), sep="\n")


if __name__ == "__main__":
    run(main)
