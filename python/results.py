"""Put a run's numbers together: results.json, loss.png and a Markdown table.

    python python/results.py tiny 1 --work work

Reads the DONE of every stage and the training log; writes WORK/runs/<model>/round<N>/results/. results.json holds the
recipe's values and names what was scored.
"""

from pathlib import Path
from typing import Any

from sft.engines.saved import history
from sft.eval.metrics import score_rows
from sft.lib.done import is_done, new_folder, read_done, recipe_hash, write_done
from sft.lib.errors import run
from sft.lib.files import write_json
from sft.lib.progress import log
from sft.recipe.chain import ending
from sft.recipe.command import open_run, run_parser
from sft.recipe.keys import Recipe, stage_keys
from sft.recipe.paths import Paths, converted


def collect(paths: Paths, recipe: Recipe, again: str) -> dict[str, dict[str, Any]]:
    """The manifest of every stage; convert's is the sum over its steps. Raises Failure for the first unfinished one."""

    def finished(name: str, folder: Path) -> dict[str, dict[str, Any]]:
        return {name: read_done(folder, f"run: make {name} {again}")}

    done = finished("data", paths.data) | finished("model", paths.start) | finished("train", paths.train)
    steps = [converted(paths, step, f"run: make convert {again}") for step in recipe["AVERAGE_STEPS"].split(",")]
    done["convert"] = {
        "seconds": round(sum(step["seconds"] for step in steps), 1),
        "peak_memory_bytes": max(step["peak_memory_bytes"] for step in steps),
    }
    if ending(recipe) == "average":
        done |= finished("average", paths.average)
    return done | finished("eval", paths.eval)


def table(result: dict[str, Any]) -> str:
    """The run as Markdown: scores, then seconds and memory of each stage."""
    lines = [
        f"# {result['model']}, round {result['round']}",
        "",
        f"Commit `{result['code']['commit'][:12]}`{' with uncommitted changes' if result['code']['dirty'] else ''}, "
        f"recipe `{result['recipe_sha256'][:12]}`, data `{result['data_sha256'][:12]}`; "
        f"{result['steps']} steps in {result['links']} link(s), final loss {result['final_loss']:.4f}.",
        "",
    ]
    if "scores" in result:
        lines += score_tables(result["scores"])
        lines += ["", f"Answers: {result['decoding']}, of at most {result['max_tokens']:,} tokens."]
    else:
        lines += ["| model | n | pass@1 | no answer | truncated |", "|---|---|---|---|---|"]
        for name in ("baseline", "averaged"):
            s = result[name]
            lines.append(f"| {name} | {s['n']} | {s['pass@1']:.1%} | {s['no_answer']:.1%} | {s['truncated']:.1%} |")
    lines += ["", "| stage | seconds | peak memory, MiB |", "|---|---|---|"]
    for name, cost in result["stages"].items():
        lines.append(f"| {name} | {cost['seconds']:.1f} | {cost['peak_memory_bytes'] / 2**20:,.0f} |")
    return "\n".join(lines) + "\n"


# How the figures of an evaluation are headed.
HEADS = {"published_regex": "tutorial's regex", "think": "think tags", "no_answer": "no answer"}
HEADS |= {"exact_match": "EM", "f1": "F1", "rougeL": "ROUGE-L"}


def score_tables(scores: dict[str, Any]) -> list[str]:
    """Markdown: model, set and mode for sets with like figures, and what the system prompt switches."""
    lines: list[str] = []
    head: tuple[str, ...] = ()
    for model, name, mode, figures in sorted(score_rows(scores), key=lambda row: tuple(row[3])):
        if tuple(figures) != head:
            head = tuple(figures)
            lines += [""] if lines else []
            lines.append("| model | set | thinking | " + " | ".join(HEADS.get(what, what) for what in head) + " |")
            lines.append("|---|---|---" + "|---" * len(head) + "|")
        rates = " | ".join(f"{value:,}" if what == "n" else f"{value:.1%}" for what, value in figures.items())
        lines.append(f"| {model} | {name} | {mode if mode != 'plain' else '-'} | {rates} |")
    switched = [
        (model, name, modes["on"], modes["off"])
        for model, sets in scores.items()
        for name, modes in sets.items()
        if {"on", "off"} <= modes.keys()
    ]
    if switched:
        lines += [
            "",
            "| model | set | think tags, on | think tags, off | accuracy, on | accuracy, off |",
            "|---|---|---|---|---|---|",
        ]
        for model, name, on, off in switched:
            four = (on["think"], off["think"], on["accuracy"], off["accuracy"])
            lines.append(f"| {model} | {name} | " + " | ".join(f"{rate:.1%}" for rate in four) + " |")
    return lines


def draw(metrics: dict[int, dict[str, Any]], title: str, target: Path) -> None:
    """Loss and, where it is logged, learning rate over the steps, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, left = plt.subplots(figsize=(7, 4), dpi=120)
    left.plot(list(metrics), [m["loss"] for m in metrics.values()], color="tab:blue", linewidth=1.2)
    left.set_xlabel("optimizer step")
    left.set_ylabel("training loss", color="tab:blue")
    left.set_yscale("log")
    left.grid(alpha=0.3)
    if all("lr" in m for m in metrics.values()):  # NeMo-RL does not print it
        right = left.twinx()
        right.plot(list(metrics), [m["lr"] for m in metrics.values()], color="tab:gray", linewidth=1, linestyle="--")
        right.set_ylabel("learning rate", color="tab:gray")
    left.set_title(title)
    figure.tight_layout()
    figure.savefig(target)
    plt.close(figure)


def main() -> None:
    args, recipe, paths = open_run(run_parser(__doc__))
    done = collect(paths, recipe, f"MODEL={args.model} ROUND={args.round}")
    keys = stage_keys(recipe, "results")
    inputs = done["eval"]["inputs"] | done["train"]["inputs"]
    if is_done(paths.results, keys, inputs):
        log(f"results: {paths.results} is already there")
    else:
        metrics = history(recipe, paths)
        result = {
            "model": args.model,
            "round": args.round,
            "code": done["train"]["code"],
            "recipe": keys,
            "recipe_sha256": recipe_hash(keys),
            # Which model each name of the scores is: in round 2 the baseline is the one that round 1 made.
            "scored": {
                "baseline": str(paths.start.relative_to(paths.work)),
                "averaged" if ending(recipe) == "average" else "trained": str(paths.final.relative_to(paths.work)),
            },
            "data_sha256": done["train"]["inputs"]["data"],
            "model_revision": done["model"].get("revision"),
            "steps": done["train"]["steps"],
            "links": done["train"]["links"],
            "final_loss": done["train"]["final_loss"],
            "grader": done["eval"]["grader"],
            "decoding": done["eval"]["decoding"],
            "stages": {s: {k: done[s][k] for k in ("seconds", "peak_memory_bytes")} for s in done},
        }
        scores = done["eval"]["scores"]
        if all("n" in score for score in scores.values()):
            result |= scores  # of one set of problems: baseline and averaged
        else:
            result |= {"scores": scores, "max_tokens": done["eval"]["settings"]["max_tokens"]}
        with new_folder(paths.results) as part:
            write_json(part / "results.json", result)
            draw(metrics, f"{args.model}, round {args.round}", part / "loss.png")
            (part / "README.md").write_text(table(result), encoding="utf-8")
            write_done(part, keys, inputs)
    print()
    print((paths.results / "README.md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    run(main)
