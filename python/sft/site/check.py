"""What make doctor looks at, and its verdict on each thing: ok, warning, fault or not checked."""

from pathlib import Path
from typing import Any, NamedTuple

from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths

OK, WARNING, FAULT, UNCHECKED = "ok", "warning", "fault", "not checked"


class Check(NamedTuple):
    """found: what is so, in one line. remedy: what to do; empty where there is nothing to do."""

    name: str
    verdict: str
    found: str
    remedy: str = ""


class Site(NamedTuple):
    """What is to be run here, and where. recipe, paths: None without a MODEL; plan: what make plan says of them.

    nodes, gpus: of a job, gpus being those of a node, 0 on a CPU. gpus_flag: GPUS_FLAG. options: what sbatch would get.
    container: what is to run, or the error that it ends with; answers: the same of vLLM, None where it has no part.
    ignored: variables of the environment that were dropped; overridden: what the environment says otherwise than
    cluster_file.
    """

    work: Path
    venv: Path
    launcher: str = "local"
    stage: str = "train"
    again: str = ""
    recipe: Recipe | None = None
    paths: Paths | None = None
    nodes: int = 1
    gpus: int = 0
    gpus_flag: str = "gpus-per-node"
    options: tuple[str, ...] = ()
    container: str = ""
    answers: str | None = None
    ignored: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    cluster_file: str = "cluster.env"
    plan: dict[str, Any] | None = None


def split(message: str) -> tuple[str, str]:
    """(what, remedy) of an error line of this project's."""
    what, _, remedy = message.removeprefix("error: ").partition("; ")
    return what, remedy
