"""This machine: make, bash, Python, .venv, and the variables of the environment."""

import difflib
import hashlib
import os
import re
import sys

from sft.lib.files import ROOT
from sft.site.check import FAULT, OK, WARNING, Check, Site
from sft.site.programs import ask, lines

BASH = (4, 4)  # mapfile -d and wait for a process substitution came with it (bash's NEWS)
MAKE = (3, 82)  # the oldest that understands the Makefile's assignments with export
PYTHON = ((3, 11), (3, 12))  # scripts/setup.sh
# Variables that others' programs read. sbatch's own are looked at with the environment.
OF_OTHERS = re.compile(
    r"SBATCH_|SLURM_|NCCL_|GLOO_|UCX_|FI_|MPI|OMP|CUDA|NVIDIA|NVTE_|TORCH|TRITON|VLLM_|RAY_|NRL_|HF_|WANDB|OPENAI_|PIP_|[A-Z]+_PROXY$|TMPDIR$"
)


def version(program: str) -> tuple[int, int] | None:
    """(major, minor) of what `program --version` says first."""
    first = (lines(ask(program, "--version", seconds=5)) or [""])[0]
    found = re.search(r"(\d+)\.(\d+)", first)
    return (int(found[1]), int(found[2])) if found else None


def tool(name: str, found: tuple[int, int] | None, least: tuple[int, int]) -> Check:
    want = f"{least[0]}.{least[1]}"
    if found is None:
        return Check(name, WARNING, f"no {name} in PATH", f"install {name} {want} or later")
    text = f"{name} {found[0]}.{found[1]}"
    if found < least:
        return Check(name, FAULT, f"{text} is older than {want}", f"put {name} {want} or later first in PATH")
    return Check(name, OK, text)


def python(built: bool) -> Check:
    """The Python that this runs in. Another than setup.sh takes is a fault only while .venv is to be built."""
    now, text = sys.version_info[:2], sys.version.split()[0]
    least, most = PYTHON
    if not built and not least <= now <= most:
        return Check("Python", FAULT, f"python3 is {text}", "put a Python 3.11 or 3.12 first in PATH")
    return Check("Python", OK, text)


def venv(site: Site) -> Check:
    """As open_venv of scripts/lib.sh has it."""
    if site.venv == ROOT / ".venv" and not site.venv.exists():  # a clone in which nothing was called yet
        return Check(".venv", WARNING, f"{site.venv} is not set up yet", "make data does it, or make setup")
    pins = hashlib.sha256((ROOT / "docker/requirements.txt").read_bytes()).hexdigest()
    record = site.venv / "PINS"
    if not record.is_file() or not os.access(site.venv / "bin/python", os.X_OK):
        return Check(".venv", FAULT, f"{site.venv} is not set up", "run: make setup")
    if record.read_text(encoding="utf-8").strip() != pins:
        return Check(
            ".venv", FAULT, f"{site.venv} was built from other pins than docker/requirements.txt", "run: make setup"
        )
    return Check(".venv", OK, f"{site.venv}, as pinned")


def environment(site: Site) -> Check:
    """Variables that were dropped here, but count where Slurm's programs, Python or pip are called by hand; and those
    that count here in place of the site's file."""
    found, remedies = [], []
    if site.overridden:
        found.append(f"not as in {site.cluster_file}: {some(site.overridden)}")
        remedies.append("unset what you do not mean")
    if site.ignored:
        found.append(f"dropped here: {some(site.ignored)}")
        remedies.append("unset these before you call Slurm, Python or pip yourself")
    if not found:
        return Check("environment", OK, "no variable that would change an answer of Slurm, Python or pip")
    return Check("environment", WARNING, "; ".join(found), ", ".join(remedies))


def options() -> set[str]:
    """What may stand in the site's file: the options of cluster.env.example and of scripts/options.txt."""
    example = (ROOT / "cluster.env.example").read_text(encoding="utf-8")
    listed = (ROOT / "scripts/options.txt").read_text(encoding="utf-8")
    return set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", example, re.M) + re.findall(r"^([A-Z][A-Z0-9_]*) ", listed, re.M))


def settings(site: Site) -> Check:
    """The site's file. A name in it that is no option becomes a variable of the jobs: meant, or misspelt."""
    file = ROOT / site.cluster_file
    if not file.is_file():
        remedy = f"cp cluster.env.example {site.cluster_file}, then fill in account, partition and WORK"
        return Check(
            "settings", OK, f"no {site.cluster_file}: the defaults", remedy if site.launcher == "slurm" else ""
        )
    names = re.findall(r"^([A-Z][A-Z0-9_]*)=", file.read_text(encoding="utf-8"), re.M)
    unknown = {name for name in names if not OF_OTHERS.match(name)} - options()
    if not unknown:
        return Check("settings", OK, f"{site.cluster_file}, {len(names)} options")
    near = [m for name in sorted(unknown) for m in difflib.get_close_matches(name, sorted(options()), 1)]
    what = f"did you mean {some(tuple(dict.fromkeys(near)))}? " if near else ""
    found = f"{site.cluster_file} sets {some(tuple(sorted(unknown)))}, no option of this project"
    return Check("settings", WARNING, found, f"{what}keep it only if the jobs' programs read it")


def some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def checks(site: Site) -> list[Check]:
    environ = venv(site)
    return [
        tool("make", version("make"), MAKE),
        tool("bash", version("bash"), BASH),
        python(environ.verdict == OK),
        environ,
        settings(site),
        environment(site),
    ]
