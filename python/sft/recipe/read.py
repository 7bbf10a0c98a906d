"""Read a recipe: the only reader of recipes/*.env in Python.

A recipe is three files with disjoint keys: common.env, the round's schedule (round<N>.env) and <model>.env. For the
first two a model may have its own (<model>.round<N>.env), or share one with its family (reasoning.common.env,
reasoning.round1.env), which is its name up to the first hyphen.
"""

import difflib
import re
from pathlib import Path

from sft.lib.errors import usage
from sft.lib.files import ROOT
from sft.recipe.checks import check
from sft.recipe.keys import KEYS, NAME, Recipe

RECIPES = ROOT / "recipes"
# What make's include, bash's source and we all read alike: no blanks, quotes, '$' or '#', nothing to expand.
LINE = re.compile(r"([A-Z][A-Z0-9_]*)=([A-Za-z0-9_./:,@+-]*)")


def models() -> list[str]:
    names = (p.name.removesuffix(".env") for p in RECIPES.glob("*.env"))
    return sorted(n for n in names if not re.search(r"(^|\.)(round|common)", n))


def read_file(path: Path) -> Recipe:
    """KEY=VALUE lines of one file, strictly."""
    found: Recipe = {}
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
    known = models()
    if not NAME.fullmatch(model) or model not in known:
        usage(f"no recipe named {model!r}; known models: {' '.join(known)}")
    path = RECIPES / f"{model}.env"
    rounds = read_file(path).get("ROUNDS", "").split(",")
    shared = RECIPES / f"round{round_}.env"
    if round_ not in rounds:
        usage(f"{model} has no round {round_!r}; known rounds: {' '.join(rounds)}")
    layer = layer_of(f"round{round_}.env", model)
    if not layer.is_file():
        usage(f"{path.relative_to(ROOT)}: ROUNDS names {round_}, but there is no {shared.relative_to(ROOT)}; write it")
    return [layer_of("common.env", model), layer, path]


def layer_of(name: str, model: str) -> Path:
    """The file of a layer: the model's own, else its family's, else the one of all."""
    family = model.partition("-")[0]
    own = [path for owner in (model, family) if (path := RECIPES / f"{owner}.{name}").is_file()]
    return [*own, RECIPES / name][0]


def load(model: str, round_: str) -> Recipe:
    """The checked recipe of a model and round, as strings. Raises Failure (status 2)."""
    recipe: Recipe = {}
    for path in files(model, round_):
        for key, value in read_file(path).items():
            if key in recipe:
                usage(f"{path.relative_to(ROOT)}: {key} is already set in another layer; every key has one home")
            recipe[key] = value
    check(model, recipe)
    return recipe
