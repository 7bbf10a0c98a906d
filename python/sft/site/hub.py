"""The hub and wandb: whether they are needed, can be reached, and have a token. A token is never shown."""

import os
import urllib.error
import urllib.request
from pathlib import Path

from sft.recipe.engines import engine_of
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths
from sft.site.check import FAULT, OK, UNCHECKED, WARNING, Check, Site
from sft.site.programs import ask

SECONDS = 3
TRUE = {"1", "ON", "YES", "TRUE"}  # huggingface_hub 0.36 constants.py:10
# Whose models the hub hands out only to those who have accepted a licence, as their cards say.
GATED = ("meta-llama/",)


def wanted(recipe: Recipe, paths: Paths) -> dict[str, str]:
    """Repository -> what gives its files in place of the hub, of what is not here yet and of which that is not set."""
    found = {}
    # A later round starts from what the first has made, and a BASE_MODEL that is a path is here.
    fetched = recipe["BASE_SOURCE"] == "hub" and paths.start == paths.base and not recipe["BASE_MODEL"].startswith("/")
    if fetched and not (paths.base / "DONE").is_file():
        found[recipe["BASE_MODEL"]] = "MODEL_SRC"
    if recipe["DATASET_SOURCE"] == "hub" and not (paths.data / "DONE").is_file():
        found[recipe["DATASET"]] = "DATA_SRC"
    return {name: option for name, option in found.items() if not os.environ.get(option)}


def reach(endpoint: str) -> str:
    """Why it cannot be reached; empty where it answers, whatever it says."""
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=SECONDS):
            return ""
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))[:80]


def hub(site: Site, missing: dict[str, str] | None) -> Check:
    """missing: see wanted; None without a recipe, when nobody can say."""
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if missing is not None and not missing:
        return Check("hub", OK, "not needed: model and data are here, made here, or from a folder")
    need = ", ".join(missing or [])
    sources = " and ".join((missing or {}).values()) or "MODEL_SRC and DATA_SRC"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in TRUE:
        if missing is None:
            return Check("hub", WARNING, "HF_HUB_OFFLINE is set", f"unset it, or give the files with {sources}")
        remedy = f"unset it, or give the files with {sources}"
        return Check("hub", FAULT, f"HF_HUB_OFFLINE is set, and {need} is not here", remedy)
    if why := reach(endpoint):
        verdict = WARNING if missing is None else FAULT
        remedy = f"check the network, https_proxy and HF_ENDPOINT, or give the files with {sources}"
        return Check("hub", verdict, f"{endpoint} cannot be reached ({why})", remedy)
    return Check("hub", OK, f"{endpoint} answers")


def token() -> str:
    """Where a token is, as huggingface_hub 0.36 looks for one (utils/_auth.py, constants.py); empty: nowhere."""
    if os.environ.get("HF_TOKEN", "").strip():
        return "HF_TOKEN is set"
    home = Path(
        os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    ).expanduser()
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
    return f"in {file}" if file.is_file() else ""


def tokens(missing: dict[str, str] | None) -> Check:
    have = token()
    gated = [name for name in missing or [] if name.startswith(GATED)]
    if gated and not have:
        remedy = "accept its licence on the hub and export HF_TOKEN, or give the files with MODEL_SRC"
        return Check("tokens", FAULT, f"{gated[0]} is gated, and there is no token", remedy)
    local = os.environ.get("WANDB_MODE") in ("offline", "disabled")
    if os.environ.get("WANDB_PROJECT") and not os.environ.get("WANDB_API_KEY") and not local:
        return Check(
            "tokens", WARNING, "WANDB_PROJECT is set, WANDB_API_KEY is not", "export WANDB_API_KEY, or log in to wandb"
        )
    return Check("tokens", OK, f"{have} (not shown)" if have else "none for the hub, and none is needed")


def wandb(site: Site) -> list[Check]:
    """Whether the Python that trains has wandb, where it is to log there; a link looks again, before it trains."""
    engine = engine_of(site.recipe) if site.recipe and site.stage == "train" else None
    if not os.environ.get("WANDB_PROJECT") or not engine or engine.rl:  # NeMo-RL itself needs the package
        return []
    name = "WANDB_PROJECT is set"
    if (os.environ.get("CONTAINER_RUNTIME") or "none") != "none":
        return [Check("wandb", UNCHECKED, f"{name}; its package is the image's", "a link without it ends and says so")]
    python = os.environ.get("NEMO2_PYTHON", "") if engine.tutorial else f"{site.venv}/bin/python"
    look = "import importlib.util as u, sys; sys.exit(4 if u.find_spec('wandb') is None else 0)"
    answer = ask(python, "-I", "-c", look)
    if answer is None or answer.returncode not in (0, 4):
        return [Check("wandb", UNCHECKED, f"{name}; there is no {python or 'NEMO2_PYTHON'} here", "look for it there")]
    if answer.returncode:
        remedy = f"{'install it there' if engine.tutorial else 'run: scripts/setup.sh loggers'}, or unset it"
        return [Check("wandb", FAULT, f"{name}, and {python} has no package wandb", remedy)]
    return [Check("wandb", OK, f"{python} has it")]


def checks(site: Site) -> list[Check]:
    missing = wanted(site.recipe, site.paths) if site.recipe and site.paths else None
    return [hub(site, missing), tokens(missing), *wandb(site)]
