"""A model card: README.md of a model as the hub shows it, from the run's DONE files and results.

Licences are pinned in licences.json, from the cards of the models and data sets on huggingface.co. notice and name:
what a redistributor has to show, and to begin the model's name with (Llama 3 and 3.1 Community License Agreement,
section 1.b.i).
"""

from pathlib import Path
from typing import Any

from sft.lib.files import read_json
from sft.lib.table import markdown
from sft.recipe.keys import Recipe
from sft.results.tables import scores

UNKNOWN = "not known here"


def licence_of(kind: str, name: str) -> dict[str, str]:
    """What licences.json says of a model or a data set; nothing where it does not know it."""
    return dict(read_json(Path(__file__).with_name("licences.json"))[kind].get(name, {}))


def published(name: str) -> bool:
    """Whether this is a repository of the hub, owner/name, not a folder or a name of ours."""
    return "/" in name and not name.startswith("/")


def shown(name: str) -> str:
    """A name that says nothing about the machine: of a folder only its last part."""
    return name if published(name) else name.rsplit("/", 1)[-1]


def front(recipe: Recipe) -> list[str]:
    """The card's YAML: what the hub's search knows of a model."""
    base, data = recipe["BASE_MODEL"], recipe["DATASET"]
    adapter = "LORA_RANK" in recipe
    from_hub = recipe["BASE_SOURCE"] == "hub" and published(base)
    lines = []
    if licence := licence_of("models", base).get("licence"):
        lines.append(f"license: {licence}")
    if from_hub:
        lines += [f"base_model: {base}", f"base_model_relation: {'adapter' if adapter else 'finetune'}"]
    if recipe["DATASET_SOURCE"] == "hub" and published(data):
        lines += ["datasets:", f"  - {data}"]
    lines += [f"library_name: {'peft' if adapter else 'transformers'}", "pipeline_tag: text-generation"]
    return ["---", *lines, "tags:", "  - sft", "---"]


def sources(recipe: Recipe, done: dict[str, Any], start: str | None) -> list[str]:
    """A table of base and data: name, revision, licence. start: the model that round 1 made, where training began."""
    base, data = recipe["BASE_MODEL"], recipe["DATASET"]
    random, made = recipe["BASE_SOURCE"] == "random", recipe["DATASET_SOURCE"]
    licences = {
        "base": "none: random weights" if random else licence_of("models", base).get("licence", UNKNOWN),
        "data": {"generate": "none: generated", "prepared": "that of your own data"}.get(made)
        or licence_of("data", data).get("licence", UNKNOWN),
    }
    rows = [
        ("", "name", "revision", "licence"),
        ("base model", shown(base), f"`{str(done['model'].get('revision') or 'none')[:12]}`", licences["base"]),
        ("data", shown(data), f"`{recipe['DATASET_REVISION'][:12]}`", licences["data"]),
    ]
    lines = markdown(rows)
    if start:
        lines += ["", f"Training started from `{start}`, the model that round 1 of this recipe ended with."]
    return lines


def card(title: str, run: tuple[str, str], recipe: Recipe, done: dict[str, Any], results: dict[str, Any] | None) -> str:
    """The card as Markdown. run: model and round; done: the DONE of data, model, train and final."""
    train, final = done["train"], done["final"]
    what = (
        f"LoRA adapter of rank {recipe['LORA_RANK']}" if "LORA_RANK" in recipe else "model, all of its weights trained"
    )
    start = None if recipe["START_FROM"] == "base" else f"{run[0]} round 1"
    lines = [*front(recipe), "", f"# {title}", ""]
    if notice := licence_of("models", recipe["BASE_MODEL"]).get("notice"):
        lines += [f"**{notice}**", ""]
    steps = [str(step) for step in recipe["AVERAGE_STEPS"]]
    ended = f"the mean of steps {', '.join(steps)}" if len(steps) > 1 else f"step {steps[0]}"
    lines += [
        f"A {what}, made by supervised fine-tuning with nemo-sft-repro: recipe {run[0]}, round {run[1]}, {ended}.",
        "",
        "## Sources",
        "",
        *sources(recipe, done, start),
        "",
        "## Training",
        "",
        f"{train['steps']:,} steps of {recipe['GLOBAL_BATCH']:,} rows in {train['links']} link(s) of "
        f"{recipe['ENGINE']}, final loss {train['final_loss']:.4f}. Chat template: {recipe['CHAT']}.",
        "",
        "```",
        *(f"{key}={shown(value) if value.startswith('/') else value}" for key, value in sorted(recipe["text"].items())),
        "```",
        "",
        "## Scores",
        "",
    ]
    if results:
        lines += [*scores(results)[1:], "", "The baseline is the model that training started from."]
    else:
        lines += ["The recipe names no evaluation set: nothing was measured."]
    code = train["code"]
    changed = " with uncommitted changes" if code["dirty"] else ""
    lines += ["", "## Provenance", ""]
    lines += markdown([
        ("what", "value"),
        ("commit", f"`{code['commit']}`{changed}"),
        ("recipe", f"`{final['recipe_sha256']}`"),
        ("data", f"`{train['inputs']['data']}`"),
        ("base and start", f"`{train['inputs']['model']}`"),
        ("finished", str(final["finished"])),
    ])  # fmt: skip
    lines += ["", "The hashes are sha256, as the `DONE` files of the run have them.", ""]
    lines += markdown(
        [("file", "sha256"), *((name, f"`{digest}`") for name, digest in sorted(final["outputs"].items()))]
    )
    return "\n".join(lines) + "\n"
