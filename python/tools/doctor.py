"""Check what a run needs of this site before anything is queued: one table, with what to do. Changes nothing.

    python3 python/tools/doctor.py qwen7b 1 --work /lustre/me/sft --launcher slurm
    python3 python/tools/doctor.py qwen7b 1 --work /lustre/me/sft --launcher slurm --faults train

Without MODEL (an empty word) what a recipe needs is not looked at. Standard library only, for it runs on a login node
before make setup. Options of the site come from the environment, as scripts/tool.sh doctor gives them.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

import json
import os
from collections import Counter
from typing import Any

from sft.lib.errors import Failure, run
from sft.lib.files import ROOT
from sft.lib.progress import many
from sft.lib.table import text
from sft.recipe.paths import Paths
from sft.recipe.read import load
from sft.site import container, hub, machine, node, slurm, storage
from sft.site.check import FAULT, OK, UNCHECKED, WARNING, Check, Site
from sft.site.programs import ask, said


def plan_of(args: argparse.Namespace, limit: str) -> dict[str, Any]:
    """What make plan says, with the options of the environment; {"error": its line} when it says nothing."""
    tool = (str(ROOT / "scripts/tool.sh"), "plan", args.model, args.round, "--json")
    answer = ask(*tool, WORK=args.work, SBATCH_TIMELIMIT=limit)
    if answer is None or answer.returncode:
        return {"error": said(answer)}
    return json.loads(answer.stdout)


def open_site(args: argparse.Namespace) -> Site:
    work = Path(args.work).resolve()
    site = Site(
        work, Path(args.venv).resolve(), args.launcher, args.faults or "train", container=args.container,
        answers=args.answers, gpus_flag=args.gpus_flag, options=tuple(args.options.split()),
        ignored=tuple(args.ignored.split()), overridden=tuple(args.overridden.split()), cluster_file=args.cluster_file,
    )  # fmt: skip
    if not args.model:
        return site
    recipe = load(args.model, args.round)
    gpus = recipe["GPUS_PER_NODE"] if recipe["DEVICE"] == "gpu" else 0
    if site.stage != "train":
        gpus = 0 if site.stage in ("average", "results") else min(gpus, 1)
    return site._replace(
        recipe=recipe,
        paths=Paths(work, args.model, args.round, recipe),
        nodes=recipe["NODES"] if site.stage == "train" else 1,
        gpus=gpus,
        again=f"MODEL={args.model} ROUND={args.round}",
    )


def checks(site: Site, args: argparse.Namespace) -> list[Check]:
    """All of them. Slurm comes first: its partition has the time limit that the plan needs, and the number of nodes."""
    first, there = slurm.answers(site.launcher)
    part, known, nodes, of_slurm = None, {}, [], [first]
    if there:
        known = slurm.partitions() or {}
        other = os.environ.get("CPU_PARTITION") if site.stage in ("average", "results") else None
        check, part = slurm.partition(other or slurm.option("PARTITION"), known, "SBATCH_PARTITION")
        nodes = slurm.nodes_of(part["PartitionName"]) if part else []
    if site.recipe:
        site = site._replace(plan=plan_of(args, slurm.limit_of(part)))
    if there:
        of_slurm += slurm.checks(site, known, part, nodes, check)
    found = [
        *machine.checks(site),
        *of_slurm,
        *container.checks(site),
        *storage.checks(site, len(nodes)),
        *hub.checks(site),
    ]
    if args.faults:
        return found
    if args.node and there and not any(check.verdict == FAULT for check in of_slurm):
        return node.merged(found, node.checks(site, min(sum(one.up for one in nodes), 2)))
    why = "no Slurm to ask" if not there else "the faults of Slurm come first" if args.node else ""
    return [
        *found,
        Check("node", UNCHECKED, why or "clocks, /tmp and network of a node", "" if why else "NODE=1 asks one"),
    ]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", help="a recipe, or an empty word")
    arguments.add_argument("round", help="a round of that recipe")
    arguments.add_argument("--work", default="work", help="where everything is written (default: work)")
    arguments.add_argument("--venv", default=".venv", help="the environment that make setup builds (default: .venv)")
    arguments.add_argument("--launcher", default="local", help="local or slurm (default: local)")
    arguments.add_argument(
        "--gpus-flag", default="gpus-per-node", help="how GPUs are asked for (default: gpus-per-node)"
    )
    arguments.add_argument("--container", default="", help="the image, or the error line of scripts/runtime.sh")
    arguments.add_argument("--answers", help="vLLM's Python or image, or the error line of scripts/engines/vllm.sh")
    arguments.add_argument(
        "--ignored", default="", help="variables that scripts/lib.sh has dropped, with blanks between"
    )
    arguments.add_argument("--overridden", default="", help="options of cluster.env that the environment overrides")
    arguments.add_argument("--cluster-file", default="cluster.env", help="where the site's options are from")
    arguments.add_argument("--node", action="store_true", help="also run a job of a minute on two nodes")
    arguments.add_argument("--faults", metavar="STAGE", help="for the jobs of STAGE; print nothing but the first fault")
    arguments.add_argument("--options", default="", help="what sbatch would get, with blanks between")
    args = arguments.parse_args()
    found = checks(open_site(args), args)
    faults = [check for check in found if check.verdict == FAULT]
    if args.faults:
        if faults:
            more = f" (make doctor {open_site(args).again} shows {len(faults) - 1} more)" if faults[1:] else ""
            raise Failure(f"{faults[0].name}: {faults[0].found}; {faults[0].remedy}, or DOCTOR=no{more}")
        return 0
    rows = [
        line
        for c in found
        for line in ((c.name, c.verdict, c.found), *([("", "", f"-> {c.remedy}")] if c.remedy else []))
    ]
    print(text([("check", "verdict", "found"), *rows]))
    counts = Counter(check.verdict for check in found)
    words = {OK: f"{counts[OK]} {OK}", UNCHECKED: f"{counts[UNCHECKED]} {UNCHECKED}"}
    words |= {verdict: many(counts[verdict], verdict) for verdict in (WARNING, FAULT)}
    print(", ".join(words[verdict] for verdict in (OK, WARNING, FAULT, UNCHECKED) if counts[verdict]))
    return 1 if faults else 0


if __name__ == "__main__":
    run(main)
