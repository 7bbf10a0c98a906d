"""What one make eval is: which models on which sets, made from what, and the folder that it goes to."""

import argparse
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sft.eval.answers import machines, read_answers
from sft.eval.benchmarks.pins import chosen
from sft.eval.benchmarks.prepare import prepare
from sft.eval.grading.judge import Judge
from sft.eval.protocols.read import Protocol, protocol
from sft.eval.scoring import decodings, graded, solutions
from sft.eval.tasks import Task, in_order, kind_of, read_rows, source_of, test_file
from sft.lib.done import code_hash, read_done, recipe_hash
from sft.lib.errors import Failure, usage
from sft.lib.files import sha256
from sft.recipe import checks
from sft.recipe.chain import ending
from sft.recipe.keys import Recipe, stage_keys
from sft.recipe.paths import Paths

# Options that stand for a key of the recipe: an evaluation with another value has a folder of its own.
KEYS = {"bench": "EVAL_SET", "mode": "EVAL_MODE", "protocol": "EVAL_PROTOCOL"}


@dataclass(frozen=True)
class Scored:
    """A model. config: what it is loaded with; base: the model that an adapter is of, and whose tokenizer it has."""

    name: str
    folder: Path
    config: Path
    base: Path


@dataclass
class Evaluation:
    recipe: Recipe
    target: Path
    models: list[Scored]
    files: dict[str, Path]  # set -> its rows
    inputs: dict[str, str] = field(default_factory=dict)

    @property
    def keys(self) -> dict[str, str]:
        return stage_keys(self.recipe, "eval")

    @property
    def identity(self) -> dict[str, Any]:
        code = code_hash("lib", "rows", "data", "eval")
        return {"recipe": self.keys, "inputs": self.inputs, "code": code}

    def sets(self, most: int | None) -> list[tuple[str, int, list[dict[str, Any]]]]:
        """(name, samples, rows) of each set. Raises Failure for a row that is not as it must be."""
        return [
            (name, samples, read_rows(self.files[name], kind_of(self.recipe, name), most))
            for name, samples in self.recipe["EVAL_SET"]
        ]


def sets_of(text: str, own: list[str], work: Path) -> str:
    """BENCH=aime24:64,my/problems.jsonl as EVAL_SET has it; a file is prepared. own: the recipe's sets."""
    words = [word.strip() for word in text.split(",")]
    named = [word for word in words if word.partition(":")[0] in own]
    found = []
    for pin, samples in chosen(",".join(word for word in words if word not in named)) if named != words else ():
        if pin.origin == "local":
            prepare(pin, work, None)
        found.append(f"{pin.name}:{samples}" if samples else pin.name)
    return ",".join(named + found)


def changed(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """The recipe with what the options give in place of its own keys. Raises Failure (status 2)."""
    if "EVAL_ENGINE" not in recipe:
        raise Failure(f"recipe {args.model} names no EVAL_SET; add EVAL_SET and EVAL_ENGINE to it, as recipes/tiny has")
    given = {KEYS[name]: getattr(args, name) for name in KEYS if getattr(args, name)}
    if args.bench:
        given["EVAL_SET"] = sets_of(args.bench, [name for name, _ in recipe["EVAL_SET"]], Path(args.work).resolve())
    if given.get("EVAL_MODE") == "genselect":  # which selects among the solutions with code, as published
        given["EVAL_MODE"] = "tir,genselect"
    text = recipe["text"] | given
    found = checks.parse(args.model, text)
    checks.check(args.model, found)
    return found


def gpus_of(recipe: Recipe) -> int:
    """GPUs of one engine."""
    return recipe["EVAL_TP"] if recipe["EVAL_ENGINE"] == "vllm" else 1


def folder_of(paths: Paths, args: argparse.Namespace) -> Path:
    """eval/, or eval-<what was given> beside it."""
    folders = [Path(folder).name if folder else None for folder in (args.folder, args.selector)]
    given = [*folders, *(getattr(args, name) for name in KEYS)]
    words = [re.sub(r"[^a-z0-9.]+", "-", word.removesuffix(".jsonl").lower()).strip("-.") for word in given if word]
    return paths.eval.with_name("-".join(["eval", *words])) if words else paths.eval


def selector(scored: Scored, folder: str) -> Scored:
    """Another model in place of the scored one, whose solutions it compares."""
    config = Path(folder).resolve() / "config.json"
    if not config.is_file():
        usage(f"SELECTOR={folder} has no config.json; give the folder of a model")
    return Scored(scored.name, config.parent, config, config.parent)


def config_of(folder: Path) -> Path:
    """The config that a base is loaded with: as published, where training patched it."""
    original = folder / "config.original.json"
    return original if original.is_file() else folder / "config.json"


def evaluation(recipe: Recipe, paths: Paths, args: argparse.Namespace) -> Evaluation:
    """Everything that is asked for. Raises Failure where something of it is not there yet."""
    recipe = changed(recipe, args)
    again = f"MODEL={args.model} ROUND={args.round}"
    files = {name: test_file(recipe, paths, name, again) for name, _ in recipe["EVAL_SET"]}
    inputs = {f"test {name}": sha256(path) for name, path in files.items()}
    if args.folder:
        folder = Path(args.folder).resolve()
        config = folder / "config.json"
        if not config.is_file():
            usage(f"MODEL_DIR={args.folder} has no config.json; give the folder of a model")
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.name)
        if (folder / "adapter_config.json").is_file():
            usage(f"MODEL_DIR={args.folder} is an adapter; give the model with it merged in (make convert MERGE=1)")
        models = [Scored(name, folder, config, folder)]
        manifest = folder / "DONE"
        inputs[name] = sha256(manifest if manifest.is_file() else config)
    else:
        final = read_done(paths.final, f"run: make {ending(recipe)} {again}")
        start = read_done(paths.start, f"run: make model {again}")
        adapter = (paths.final / "adapter_config.json").is_file()
        trained = paths.start / "config.json" if adapter else paths.final / "config.json"
        models = [
            Scored("baseline", paths.start, config_of(paths.start), paths.start),
            Scored("trained", paths.final, trained, paths.start),
        ]
        inputs |= {"baseline": recipe_hash(start["outputs"]), "trained": recipe_hash(final["outputs"])}
    if args.selector:
        inputs["selector"] = sha256(selector(models[0], args.selector).config)
    if args.rows is not None:
        inputs["rows"] = str(args.rows)
    return Evaluation(recipe, folder_of(paths, args), models, files, inputs)


def check(recipe: Recipe, paths: Paths, again: str, unmade: bool = False) -> None:
    """Raises Failure where an evaluation would miss something, hours from now. unmade: its sets are made before it."""
    for name, _ in recipe["EVAL_SET"]:
        if not unmade:
            test_file(recipe, paths, name, again)
        for mode in recipe["EVAL_MODE"] if "EVAL_PROTOCOL" in recipe else ():
            protocol(recipe["EVAL_PROTOCOL"]).mode(mode)


def named(rules: Protocol | None) -> dict[str, str] | None:
    """What results say of a protocol."""
    if rules is None:
        return None
    return {key: getattr(rules, key) for key in ("name", "comparison", "extraction", "tie")}


def open_judge(wanted: Evaluation, args: argparse.Namespace) -> Judge | None:
    """The judge of JUDGE=url, None without one. Raises Failure (status 2) where no protocol would ask it."""
    if not args.judge:
        return None
    if "EVAL_PROTOCOL" not in wanted.recipe:
        usage(f"JUDGE={args.judge}: recipe {args.model} has no EVAL_PROTOCOL, which would ask it; leave it out")
    model = args.judge_model or protocol(wanted.recipe["EVAL_PROTOCOL"]).judge_model
    return Judge(args.judge, model, wanted.target.with_name(f".{wanted.target.name}.judgements.jsonl"))


# --- grades --------------------------------------------------------------------------------------------------------


def grade(
    recipe: Recipe,
    tasks: list[Task],
    model: str,
    part: Path,
    judge: Judge | None,
    show: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """set -> mode -> figures of a model; each is shown when it is there. Raises Failure where answers are missing."""
    scores: dict[str, Any] = {}
    rules = protocol(recipe["EVAL_PROTOCOL"]) if "EVAL_PROTOCOL" in recipe else None
    for task in in_order(tasks):
        more: dict[str, Any] = {}
        if rules and task.kind == "math":
            more = {"seed": recipe["SEED"], "judge": judge}
            if task.mode == "genselect":
                source = source_of(task, tasks)
                more["solved"] = solutions(source, partial(read_answers, part, model, source), rules)
        target = part / f"{model}.{task.name}.{task.mode}.jsonl"
        found = graded(task, partial(read_answers, part, model, task), target, rules, **more)
        for name, figures in found.items():
            scores.setdefault(name, {})[task.mode] = figures
        show({model: {name: {task.mode: figures} for name, figures in found.items()}})
    return scores


def facts(recipe: Recipe, tasks: list[Task], part: Path, judge: Judge | None) -> dict[str, Any]:
    """What DONE says beside the scores: how answers were made and graded, and by what machine."""
    rules = protocol(recipe["EVAL_PROTOCOL"]) if "EVAL_PROTOCOL" in recipe else None
    graders = {rules.comparison if rules and task.kind == "math" else task.grader for task in tasks}
    asked = rules.judge if judge and rules else ()
    judged = {f"{name} by {judge.model}" for name, _ in recipe["EVAL_SET"] if judge and name in asked}
    found: dict[str, Any] = {"grader": ", ".join(sorted(graders | judged)), "decoding": decodings(tasks)}
    found |= {"protocol": named(rules), "machine": machines(part, gpus_of(recipe) if recipe["DEVICE"] == "gpu" else 0)}
    found["max_tokens"] = max(task.decoding.max_tokens for task in tasks)
    return found | {"settings": {task.mode: asdict(task.decoding) for task in tasks}}
