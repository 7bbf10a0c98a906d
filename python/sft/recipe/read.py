"""Read a recipe: the only reader of recipes/ in Python.

A recipe is three files of one folder, with disjoint keys: common.env, what all its models and rounds share;
round<N>.env, the data and schedule of a round; and <model>.env. No folder takes anything from another.
"""

import difflib
import re
from pathlib import Path

from sft.lib.errors import usage
from sft.lib.files import ROOT
from sft.recipe.checks import check, parse
from sft.recipe.keys import KEYS, Recipe

RECIPES = ROOT / "recipes"
# What bash's source and we read alike: no blanks, quotes, '$' or '#', nothing to expand.
LINE = re.compile(r"([A-Z][A-Z0-9_]*)=([A-Za-z0-9_./:,@+-]*)")


def paths_of() -> dict[str, Path]:
    """Model -> its file. Raises Failure (status 2) for a name that two folders have."""
    found: dict[str, Path] = {}
    for path in sorted(RECIPES.glob("*/*.env")):
        name = path.name.removesuffix(".env")
        if path.parent.suffix == ".example" or name == "common" or name.startswith("round"):
            continue
        if name in found:
            usage(f"{path.relative_to(ROOT)}: {found[name].relative_to(ROOT)} is called so, too; rename one")
        found[name] = path
    return found


def models() -> list[str]:
    return sorted(paths_of())


def rounds(model: str) -> list[str]:
    """The rounds of a known model."""
    return read_file(paths_of()[model]).get("ROUNDS", "").split(",")


def read_file(path: Path) -> dict[str, str]:
    """KEY=VALUE lines of one file, strictly."""
    found: dict[str, str] = {}
    where = path.relative_to(ROOT)
    for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        if not match:
            usage(
                f"{where}:{n}: {line[:60]!r} is not KEY=VALUE; write it without blanks, quotes, '$' or trailing comment"
            )
        if match[1] in found:
            usage(f"{where}:{n}: {match[1]} is set twice; keep one")
        if match[1] not in KEYS:
            near = difflib.get_close_matches(match[1], KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else "python/sft/recipe/keys.py lists them"
            usage(f"{where}:{n}: unknown key {match[1]}; {hint}")
        found[match[1]] = match[2]
    return found


def files(model: str, round_: str) -> list[Path]:
    """The three files of a recipe; Failure (status 2) for an unknown model or round."""
    known = paths_of()
    if model not in known:
        usage(f"no recipe named {model!r}; known models: {' '.join(sorted(known))}")
    path = known[model]
    if round_ not in rounds(model):
        usage(f"{model} has no round {round_!r}; known rounds: {' '.join(rounds(model))}")
    layers = [path.with_name("common.env"), path.with_name(f"round{round_}.env")]
    for layer in layers:
        if not layer.is_file():
            why = "" if layer.name == "common.env" else f"ROUNDS names {round_}, but "
            usage(f"{path.relative_to(ROOT)}: {why}there is no {layer.relative_to(ROOT)}; write it")
    return [*layers, path]


def load(model: str, round_: str) -> Recipe:
    """The checked recipe of a model and round. Raises Failure (status 2)."""
    text: dict[str, str] = {}
    for path in files(model, round_):
        for key, value in read_file(path).items():
            if key in text:
                usage(f"{path.relative_to(ROOT)}: {key} is already set in another file of the recipe; keep one")
            text[key] = value
    recipe = parse(model, text)
    check(model, recipe)
    if recipe["START_FROM"] == "round1":
        if round_ == "1":
            usage(f"{model}: START_FROM=round1 in round 1; set START_FROM=base")
        if "LORA_RANK" in load(model, "1"):
            usage(f"{model}: round {round_} cannot start from round 1, which ends with an adapter; set START_FROM=base")
    return recipe
