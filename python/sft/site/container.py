"""The container runtime, the engine's image, and vLLM: what scripts/ finds of them, or the error that it ends with."""

import os
import shutil

from sft.site.check import FAULT, OK, UNCHECKED, Check, Site, split
from sft.site.programs import ask


def runs(site: Site) -> list[Check]:
    """What training runs in."""
    runtime = os.environ.get("CONTAINER_RUNTIME") or "none"
    if site.container.startswith("error: "):
        return [Check("container", FAULT, *split(site.container))]
    if runtime == "none":
        return [Check("container", OK, "none: the nodes' own Python")]
    image = site.container.removeprefix("--container-image=")
    what = f"{runtime}, {image}" if image else runtime
    if runtime == "pyxis":
        answer = ask("srun", "--help", seconds=5)
        if answer and "--container-image" not in answer.stdout:
            remedy = "ask the site for pyxis, or set another CONTAINER_RUNTIME"
            return [Check("container", FAULT, "srun has no --container-image: Slurm runs without pyxis", remedy)]
        return [Check("container", OK, what)]
    if site.launcher == "slurm":
        return [Check("container", UNCHECKED, f"{what}: {runtime} runs on the nodes", "try it there with NODE=1")]
    if not shutil.which(runtime):
        return [
            Check("container", FAULT, f"there is no {runtime} here", f"install {runtime}, or set CONTAINER_RUNTIME")
        ]
    return [Check("container", OK, what)]


def vllm(site: Site) -> list[Check]:
    """What makes the answers of the evaluation, where the recipe leaves that to vLLM."""
    if site.answers is None:
        return []
    runtime = os.environ.get("CONTAINER_RUNTIME") or "none"
    if site.answers.startswith("error: "):
        return [Check("vLLM", FAULT, *split(site.answers))]
    if not site.answers:
        remedy = f"see that {runtime} has it on the nodes: make container ENGINE=vllm there"
        return [Check("vLLM", UNCHECKED, f"{runtime} has its image on the nodes", remedy)]
    if runtime != "none":
        return [Check("vLLM", OK, f"{runtime}, {site.answers}")]
    found = "from importlib.util import find_spec; print(find_spec('vllm') is not None)"
    answer = ask(site.answers, "-Ec", found)
    if answer is None or answer.returncode or answer.stdout.strip() != "True":
        remedy = (
            "set VLLM_VENV to an environment that has it, or CONTAINER_RUNTIME, then run make container ENGINE=vllm"
        )
        return [Check("vLLM", FAULT, f"{site.answers} finds no vllm", remedy)]
    return [Check("vLLM", OK, site.answers)]


def checks(site: Site) -> list[Check]:
    return [*runs(site), *vllm(site)]
