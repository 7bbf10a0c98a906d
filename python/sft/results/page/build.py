"""The page of a run: index.html, which needs nothing but generations/ beside it."""

import base64
import hashlib
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from sft.eval.metrics import score_rows
from sft.eval.scores.published import Published
from sft.lib.progress import log
from sft.results.compare import ANSWERS
from sft.results.page import figures
from sft.results.page.answers import Answers, read
from sft.results.page.chunks import Chunks
from sft.results.page.markup import data, escaped, fill
from sft.results.page.matrix import matrix
from sft.results.scores import published_of, sampled, tie_of, whole

HERE = Path(__file__).parent
ABSENT = "not recorded"


def source(name: str) -> str:
    return (HERE / name).read_text(encoding="ascii")


def read_answers(result: dict[str, Any], folders: Sequence[Path], part: Path) -> list[Answers]:
    """The answers to each set that has a file of them; their texts go to part/generations/."""
    found = []
    (part / "generations").mkdir()
    for model, name, mode, _ in score_rows(result["scores"]):
        file = f"{model}.{name}.{mode}.jsonl"
        path = next((folder / file for folder in folders if (folder / file).is_file()), None)
        if path:
            with Chunks(part / "generations" / f"{model}.{name}.{mode}") as chunks:
                found.append(read(path, model, name, mode, chunks))
        elif "/" not in name:  # a subset has no file of its own
            log(f"results: {file} is not there: the page has no answers of it")
    return found


def page(result: dict[str, Any], metrics: dict[int, dict[str, Any]], folders: Sequence[Path], part: Path) -> None:
    """Write index.html, answers.json and generations/ into `part`. folders: of the evaluations, the newest first."""
    runs = read_answers(result, folders, part)
    records = [run.record() for run in runs]
    (part / ANSWERS).write_text(json.dumps(records, separators=(",", ":")) + "\n", encoding="ascii")
    title = f"{result['model']}, round {result['round']}"
    body = {
        "heading": escaped(title),
        "summary": escaped(summary(result)),
        "matrix": matrix(result),
        "figures": plots(result, metrics, runs),
        "provenance": provenance(result),
    }
    (part / "index.html").write_bytes(document(title, fill(source("page.html"), body).decode("ascii"), records))


def document(title: str, body: str, records: Sequence[dict[str, Any]] = ()) -> bytes:
    """A whole page: with the style and the script of all pages, and nothing else that may run or be loaded but
    generations/."""
    script = source("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode("ascii")).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}' 'self' file:; "
    policy += "base-uri 'none'; form-action 'none'"
    parts = {"policy": policy, "title": escaped(title), "style": source("page.css"), "body": body}
    return fill(source("document.html"), parts | {"records": data(list(records)), "script": script})


def summary(result: dict[str, Any]) -> str:
    return (
        f"{result['steps']:,} steps in {result['links']} link(s), final loss {result['final_loss']:.4f}; "
        f"answers: {result['decoding']}"
    )


# --- figures -----------------------------------------------------------------------------------------------------


def plots(result: dict[str, Any], metrics: dict[int, dict[str, Any]], runs: Sequence[Answers]) -> str:
    made = [("Training loss", figures.loss("loss", metrics))]
    for number, (name, group) in enumerate(groupby(sorted(runs, key=lambda run: run.name), lambda run: run.name)):
        of_set = list(group)
        made.append((f"{name}: lengths of the answers", figures.lengths(f"l{number}", of_set, result["max_tokens"])))
    sets = list(dict.fromkeys(name for _, name, _, _ in score_rows(result["scores"])))
    for number, name in enumerate(sets):
        lines = [
            (f"{model}, {mode}", found, tie_of(result), published_points(result, model, name, mode, found))
            for model, other, mode, found in score_rows(result["scores"])
            if other == name and sampled(found) and found["k"] > 1
        ]
        if lines:
            made.append((f"{name}: pass@k and maj@k", figures.curves(f"c{number}", lines)))
    return "".join(f"<figure><figcaption>{escaped(title)}</figcaption>{svg}</figure>\n" for title, svg in made)


def published_points(
    result: dict[str, Any], model: str, name: str, mode: str, found: dict[str, Any]
) -> list[Published]:
    theirs = published_of(result, name, mode) if model == "trained" and whole(name, found) else {}
    return [row for metric, row in theirs.items() if "@" in metric]


# --- provenance --------------------------------------------------------------------------------------------------


def written(value: Any) -> str:
    if value is None or value == "":
        return ABSENT
    return value if isinstance(value, str) else json.dumps(value)


def listed(pairs: dict[str, Any]) -> str:
    rows = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(written(value))}</dd>" for name, value in pairs.items())
    return f"<dl>{rows}</dl>"


def folded(title: str, pairs: dict[str, Any]) -> str:
    return f"<details><summary>{escaped(title)}</summary>{listed(pairs)}</details>"


def provenance(result: dict[str, Any]) -> str:
    """What the scores were made from. What a run did not record is said to be so."""
    machine, protocol = result.get("machine") or {}, result.get("protocol")
    stages = {
        name: f"{cost['seconds']:,.1f} s, {cost['peak_memory_bytes'] / 2**20:,.0f} MiB at most"
        for name, cost in result["stages"].items()
    }
    named = protocol.get("name", "see below") if isinstance(protocol, dict) else protocol
    facts = {
        "commit": result["code"]["commit"] + (", with uncommitted changes" if result["code"]["dirty"] else ""),
        "recipe sha256": result["recipe_sha256"],
        "data sha256": result["data_sha256"],
        "base model": result["recipe"].get("BASE_MODEL"),
        "base model's revision": result.get("model_revision"),
        "image": machine.get("image"),
        "engine": machine.get("engine"),
        "engine version": machine.get("engine_version"),
        "hardware": machine.get("hardware"),
        "GPU hours": machine.get("gpu_hours"),
        "protocol": named,
        "decoding": result.get("decoding"),
        "grader": result.get("grader"),
    }
    facts |= {f"scored as {name}": folder for name, folder in result.get("scored", {}).items()}
    parts = [listed(facts), folded("Recipe", result["recipe"]), folded("Stages", stages)]
    for title, more in (("Inputs of the evaluation", result.get("eval_inputs")), ("Protocol", protocol)):
        if isinstance(more, dict):
            parts.append(folded(title, more))
    return "".join(parts)
