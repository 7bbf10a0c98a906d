"""A recipe on another number of GPUs: a model's file with the same global batch and a layout that fits their memory.

Of a recipe's keys only LAYOUT change: how the same rows are spread over GPUs. Rows of a step, rates and steps stay, so
the run learns what the recipe's learns, up to rounding.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from sft.lib.errors import Failure, usage
from sft.lib.progress import many
from sft.plan.estimate import FILL, GIB, shape_of
from sft.plan.footprint import Layout, layout_of, memory
from sft.plan.lengths import Data, data_of
from sft.plan.shapes import Shape
from sft.recipe.checks import check, parse
from sft.recipe.engines import backend_of, engine_of
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths
from sft.recipe.read import LINE, load, paths_of, read_file, rounds

LAYOUT = ("NODES", "GPUS_PER_NODE", "TP", "CP", "EP", "ETP", "MICRO_BATCH", "ACTIVATION_CHECKPOINTING")
POWERS = (1, 2, 4, 8, 16, 32)
MOST_NODES = 1024  # that are looked at for a number that fits
# Assumptions: what each doubling of TP * CP adds to a step's time, within a node and beyond it, for GPUs wait for each
# other; and the fewest tokens of a sequence that a GPU is given.
TALK, FAR = 0.05, 0.25
LEAST_TOKENS = 2048
WIDTH = 117  # of a comment's text
RECOMPUTE = 4 / 3  # a forward pass more, of three passes' worth


@dataclass(frozen=True)
class Choice:
    """A layout that fits. text: the values of LAYOUT; cost: time of a step, of which only ratios mean something."""

    text: dict[str, str]
    recipe: Recipe
    gib: float
    cost: float


class Search:
    """The layouts of a recipe on some GPUs of `fill` GiB each.

    recipe: of the round that is asked for. others: recipes of rounds that have to fit as well.
    """

    def __init__(self, model: str, recipe: Recipe, others: list[Recipe], shape: Shape, data: Data, fill: float):
        self.model, self.recipe, self.others, self.shape, self.data, self.fill = (
            model,
            recipe,
            others,
            shape,
            data,
            fill,
        )

    def sequences(self, recipe: Recipe, layout: Layout) -> int:
        """Those that a replica works on in a step, one after the other."""
        if recipe["PACKING"]:
            return math.ceil(self.data.bins / layout.dp)
        return recipe["GLOBAL_BATCH"] // layout.dp // recipe["MICRO_BATCH"]

    def need(self, recipe: Recipe) -> float:
        """GiB of the fullest GPU."""
        layout = layout_of(recipe)
        return memory(self.shape, recipe, layout, self.sequences(recipe, layout))["total"] / GIB

    def changed(self, recipe: Recipe, changes: dict[str, str]) -> Recipe:
        """The recipe with other values of LAYOUT, checked. Raises Failure."""
        found = parse(self.model, recipe["text"] | changes)
        check(self.model, found)
        layout, shape = layout_of(found), self.shape
        if layout.tp > found["GPUS_PER_NODE"]:
            usage(f"TP={layout.tp} reaches beyond a node; lower it")
        if shape.kv_heads % layout.tp or shape.heads % layout.tp:
            usage(f"TP={layout.tp} does not divide the heads; lower it")
        if layout.ep > 1 and shape.experts % layout.ep:
            usage(f"EP={layout.ep} does not divide the experts; lower it")
        return found

    def choice(self, changes: dict[str, str]) -> Choice | None:
        """None where the recipe's rules refuse it, or memory does not hold it."""
        try:
            found = self.changed(self.recipe, changes)
            gib = max(self.need(r) for r in (found, *(self.changed(other, changes) for other in self.others)))
        except Failure:
            return None
        return Choice(changes, found, gib, self.cost(found)) if gib <= self.fill else None

    def cost(self, recipe: Recipe) -> float:
        """Rows or sequences of a replica in a step, over the GPUs that share each; what recomputing and talking add."""
        layout = layout_of(recipe)
        share = layout.tp * layout.cp
        work = self.sequences(recipe, layout) * (1 if recipe["PACKING"] else recipe["MICRO_BATCH"])
        again = RECOMPUTE if recipe["ACTIVATION_CHECKPOINTING"] else 1.0
        near = min(share, recipe["GPUS_PER_NODE"])
        talk = TALK * math.log2(near) + FAR * math.log2(share / near)
        return work / (share * layout.pp) * again * (1 + talk)

    def layouts(self, nodes: int, per_node: int) -> Iterator[dict[str, str]]:
        """Those worth trying, the recipe's own first."""
        own = {key: self.recipe["text"][key] for key in LAYOUT} | {"NODES": f"{nodes}", "GPUS_PER_NODE": f"{per_node}"}
        yield own
        splits = engine_of(self.recipe).rl and (backend_of(self.recipe) == "fsdp") != self.recipe["PACKING"]
        batch, gpus = self.recipe["GLOBAL_BATCH"], nodes * per_node
        experts = [(own["EP"], own["ETP"])]
        if self.shape.experts and experts[0] != ("1", "1"):
            experts += [(f"{ep}", "1") for ep in POWERS if self.shape.experts % ep == 0]
        for tp in POWERS:
            for cp in POWERS if splits else (1,):
                group = tp * cp * self.recipe["PP"]
                few = cp > 1 and self.recipe["SEQ_LEN"] < LEAST_TOKENS * cp
                if few or tp > per_node or gpus % group or batch % (gpus // group):
                    continue
                for ep, etp in experts:
                    for recompute in ("false", "true"):
                        rows = self.recipe["MICRO_BATCH"]
                        while rows:
                            yield own | {
                                "TP": f"{tp}", "CP": f"{cp}", "EP": ep, "ETP": etp,
                                "MICRO_BATCH": f"{rows}", "ACTIVATION_CHECKPOINTING": recompute,
                            }  # fmt: skip
                            rows = rows // 2 if rows % 2 == 0 else 0

    def best(self, nodes: int, per_node: int) -> Choice | None:
        """The recipe's own layout where it fits; else the least costly, of equals the one that splits least."""

        def order(choice: Choice) -> tuple[float, ...]:
            tp, cp, rows = (choice.recipe[key] for key in ("TP", "CP", "MICRO_BATCH"))
            return round(choice.cost, 6), tp * cp, tp, -rows

        tried = self.layouts(nodes, per_node)
        own = self.choice(next(tried))
        return own or min(filter(None, map(self.choice, tried)), key=order, default=None)

    def choose(self, nodes: int, per_node: int, card: str) -> Choice:
        """Raises Failure (status 2) that names the number of nodes nearest above, else below, that does."""
        if found := self.best(nodes, per_node):
            return found
        tried = (*range(nodes + 1, MOST_NODES + 1), *range(nodes - 1, 0, -1))
        fits = next((n for n in tried if self.best(n, per_node)), None)
        remedy = (
            f"the next number of nodes that does is NODES={fits}" if fits else "set GPU or GPUS_PER_NODE to another"
        )
        usage(
            f"no layout of {self.model} fits {nodes} x {per_node} {card} with GLOBAL_BATCH="
            f"{self.recipe['GLOBAL_BATCH']:,} and SEQ_LEN={self.recipe['SEQ_LEN']:,}; {remedy}"
        )

    # --- in words ------------------------------------------------------------------------------------------------

    def instead(self, chosen: Choice, changes: dict[str, str]) -> str:
        """What the layout with `changes` would have been: refused, too large, or slower."""
        try:
            other = self.changed(self.recipe, chosen.text | changes)
        except Failure as failure:
            why = str(failure).removeprefix(f"recipe {self.model}: ").split(";")[0]
            return "is refused: " + re.sub(r"^[A-Z]+=[0-9]+: ", "", why)
        gib = self.need(other)
        if gib > self.fill:
            return f"would need {gib:,.1f} GiB"
        return f"would take {self.cost(other) / chosen.cost:.2f} times as long"

    def reasons(self, chosen: Choice, file: str) -> dict[str, str]:
        """Key -> why it has its value."""
        recipe, layout = chosen.recipe, layout_of(chosen.recipe)
        batch = f"GLOBAL_BATCH={recipe['GLOBAL_BATCH']:,}"
        sizes = f"{many(layout.gpus, 'GPU')}, {many(layout.dp, 'replica')}"
        why = {"NODES": f"As asked: {sizes}, by which {batch} divides."}
        kept = {key for key in LAYOUT if chosen.text[key] == self.recipe["text"][key]}
        steps = {"TP": -1, "CP": -1, "MICRO_BATCH": 1}
        for key, direction in steps.items():
            value = int(chosen.text[key])
            other = value * 2 if direction > 0 or value == 1 else value // 2
            if key == "MICRO_BATCH" and key in kept:
                why[key] = f"As in {file}."
            else:
                begin = f"As in {file}. " if key in kept else ""
                why[key] = f"{begin}{key}={other} {self.instead(chosen, {key: str(other)})}."
        recompute = chosen.text["ACTIVATION_CHECKPOINTING"]
        if recompute == "true":
            why["ACTIVATION_CHECKPOINTING"] = (
                f"Without, it {self.instead(chosen, {'ACTIVATION_CHECKPOINTING': 'false'})}."
            )
        else:
            why["ACTIVATION_CHECKPOINTING"] = "Memory holds all activations, so none is computed twice."
        if self.shape.experts:
            fewer = max(1, layout.ep // 2)
            less = f" EP={fewer} {self.instead(chosen, {'EP': f'{fewer}', 'ETP': '1'})}." if layout.ep > fewer else ""
            why["EP"] = f"{self.shape.experts} experts in {many(layout.ep, 'part')}.{less}"
            why["ETP"] = f"As in {file}." if "ETP" in kept else f"No expert is split further than by EP={layout.ep}."
        return why


def blocks(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    """(comment, lines of keys) of a model's file."""
    comment: list[str] = []
    keys: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if LINE.fullmatch(line):
            keys.append(line)
            continue
        if keys:
            yield comment, keys
            comment, keys = [], []
        if line:
            comment.append(line)
        elif comment:  # a comment of its own
            yield comment, keys
            comment = []
    yield comment, keys


def scaled_name(model: str, nodes: int, per_node: int) -> str:
    """The model's name with nodes x GPUs behind it, in place of those of an earlier scaling."""
    return f"{re.sub(r'-[0-9]+x[0-9]+$', '', model)}-{nodes}x{per_node}"


def render(head: list[str], chosen: Choice, reasons: dict[str, str], fits: list[str], path: Path) -> str:
    """The model's file at `path` with the chosen layout, its reasons above it, and the rounds that it fits."""
    own = read_file(path)
    lines = [f"# {line}" for text in head for line in wrap(text, WIDTH)]
    for comment, keys in blocks(path):
        kept = [line for line in keys if line.split("=")[0] not in LAYOUT]
        if kept or not keys:
            lines += [*comment, *(f"ROUNDS={','.join(fits)}" if line.startswith("ROUNDS=") else line for line in kept)]
    for key in LAYOUT:
        if key in own:
            lines += [f"# {line}" for line in wrap(reasons.get(key, ""), WIDTH)] + [f"{key}={chosen.text[key]}"]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Scaled:
    """name, file: of the new model; text: that file's content."""

    name: str
    file: Path
    text: str
    recipe: Recipe


def scale(model: str, round_: str, work: Path, nodes: int, per_node: int, gib: float, card: str) -> Scaled:
    """The model's file for nodes x per_node GPUs of `gib` GiB. Raises Failure."""
    recipe, path = load(model, round_), paths_of()[model]
    if recipe["DEVICE"] != "gpu":
        usage(f"recipe {model} runs on a CPU, whose memory is not planned; leave out NODES, GPUS_PER_NODE and SCALE")

    def search(name: str) -> Search:
        """Of one of the model's rounds; one that starts from round 1 has to fit with it."""
        base = load(model, name)
        paths = Paths(work, model, name, base)
        data, _ = data_of(base, paths, f"MODEL={model} ROUND={name}")
        others = [load(model, "1")] if base["START_FROM"] == "round1" else []
        return Search(model, base, others, shape_of(base, paths)[0], data, FILL * gib)

    asked = search(round_)
    chosen = asked.choose(nodes, per_node, card)
    own = read_file(path)
    if stray := [key for key in LAYOUT if key not in own and chosen.text[key] != recipe["text"][key]]:
        usage(f"{stray[0]} is not in {path.name} but in a file beside it, for all models; move it into {path.name}")
    fits = [name for name in rounds(model) if name == round_ or search(name).choice(chosen.text)]
    name = scaled_name(model, nodes, per_node)
    file = path.with_name(f"{name}.env")
    head = [
        f"{model} on {nodes} x {per_node} {card}, made by:",
        f"make plan MODEL={model} ROUND={round_} NODES={nodes} GPUS_PER_NODE={per_node} SCALE=print",
        f"A GPU needs {chosen.gib:,.1f} of the {FILL * gib:,.1f} GiB that may be filled, by the memory model of "
        "python/sft/plan/, not compared with a real GPU. GLOBAL_BATCH is the same, hence so are rates and steps.",
    ]
    if left := [name for name in rounds(model) if name not in fits]:
        head.append(f"Rounds that do not fit so: {', '.join(left)}.")
    return Scaled(name, file, render(head, chosen, asked.reasons(chosen, path.name), fits, path), chosen.recipe)
