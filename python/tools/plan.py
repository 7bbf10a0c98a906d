"""What a recipe will take: tokens, steps, FLOPs, GPU hours, jobs in the chain, memory of a GPU, disk. Writes nothing.

    python3 python/tools/plan.py qwen7b 1 --work /lustre/me/sft --time-limit 4:00:00
    python3 python/tools/plan.py qwen7b 1 --work /lustre/me/sft --time-limit 4:00:00 --jobs    # only the number of jobs
    python3 python/tools/plan.py qwen7b 1 --nodes 4 --gpus-per-node 8 --scale print    # a recipe's file for these

Standard library only, so it runs on any login node, before data or model are there: then it assumes, and says what.
Each function states its formula and where that comes from. Not yet compared with a real GPU.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

import json
import math
from typing import Any

from sft.lib.errors import run, usage
from sft.lib.files import ROOT
from sft.lib.progress import many
from sft.plan.estimate import BRING_UP, GIB, GPUS, MFU, SAVE_RESERVE, eval_tasks_of, figures, jobs_of, size_text
from sft.plan.scale import scale
from sft.recipe.command import open_run, run_parser
from sft.recipe.keys import Recipe, positive


def render(plan: dict[str, Any], recipe: Recipe) -> str:
    """The plan as text for people."""
    out: list[str] = []

    def line(name: str, value: str, about: str = "") -> None:
        out.append(f"{name:<12}{value:>17}  {about}".rstrip())

    lay, d, f = plan["layout"], plan["data"], plan["flops"]
    where = f"{lay['nodes']} x {lay['gpus'] // lay['nodes']} {plan['gpu']['name']}" if "gpu" in plan else "CPU"
    where += f", {recipe['ENGINE']} ({lay['backend']}), TP {lay['tp']} CP {lay['cp']} PP {lay['pp']} EP {lay['ep']}"
    out.append(f"{plan['model']} round {plan['round']}: {where}, {many(lay['dp'], 'replica')}")
    about = "" if d["counted"] else " (assumed)"
    line("parameters", f"{plan['parameters']:,}", plan["shape"])
    line("  a token", f"{plan['matmul_parameters']:,}", "of them multiply it")
    if plan["adapter_parameters"]:
        frozen = f"trained, LoRA of rank {recipe['LORA_RANK']}; the others are frozen"
        line("  adapter", f"{plan['adapter_parameters']:,}", frozen)
    if d["rows"]:
        line("rows", f"{d['rows']:,}", d["source"])
        line("tokens", f"{d['tokens_per_epoch']:,}", f"an epoch; {d['tokens_per_row']:,.0f} a row{about}")
        line("steps", f"{d['steps_per_epoch']:,}", f"an epoch of GLOBAL_BATCH={recipe['GLOBAL_BATCH']:,} rows")
    else:
        line("tokens", "?", f"an epoch; {d['tokens_per_row']:,.0f} a row{about}")
    epochs = "" if d["epochs"] is None else f", {d['epochs']:.2f} epochs"
    in_all = f"in all{epochs}; {d['tokens_per_step']:,.0f} tokens each{about}"
    line("" if d["rows"] else "steps", f"{recipe['STEPS']:,}", in_all)
    if recipe["PACKING"]:
        more = (
            f"; {d['sequences']:,} to be the same for each of {lay['dp']} replicas"
            if d["sequences"] > d["bins"]
            else ""
        )
        line(
            "packed",
            f"{d['bins']:,}",
            f"sequences of {recipe['SEQ_LEN']:,} a step, {d['bin_fill']:.0%} full{more}",
        )
    line("model FLOPs", f"{f['step']:.3e}", f"a step, {f['attention']:.0%} of it attention; {f['run']:.3e} the run")
    out += ["", *time_lines(plan)]
    if plan["memory"]:
        kinds = ", ".join(f"{k} {v / GIB:,.1f}" for k, v in plan["memory"].items() if k != "total")
        line("GPU memory", f"{plan['memory']['total'] / GIB:,.1f} GiB", f"of {plan['gpu']['gib']:g}: {kinds}")
    if evaluation := plan.get("evaluation"):
        line(
            "evaluation", f"{evaluation['samples']:,}", f"answers, {evaluation['tokens'] / 1e6:,.0f} M tokens (assumed)"
        )
        line(
            "  GPU hours",
            f"{evaluation['gpu_hours']:,.0f}",
            f"on {many(evaluation['gpus'], 'GPU')} a job, of both models",
        )
        jobs = f"of each model, {evaluation['hours']:,.1f} h each"
        line("  EVAL_TASKS", f"{evaluation['tasks']:,}", jobs)
    r = plan["disk"]
    line(
        "checkpoint",
        size_text(r["checkpoint"]),
        f"{r['bytes_per_parameter']} bytes a {'trained ' * bool(plan['adapter_parameters'])}parameter; "
        f"{r['kept']} are kept",
    )
    kinds = ", ".join(f"{k} {size_text(r[k])}" for k in ("data", "base", "checkpoints", "exports", "average") if r[k])
    line("disk", size_text(r["peak"]), f"{kinds}")
    line("", size_text(r["final"]), f"in the end; {size_text(r['free'])} free in {r['folder']} (quotas are not seen)")
    return "\n".join(out + [f"note: {n}" for n in plan["notes"]] + [f"WARNING: {w}" for w in plan["warnings"]]) + "\n"


def time_lines(plan: dict[str, Any]) -> list[str]:
    """The time by the stated MFU and as measured, in columns."""
    columns = plan["time"]
    if not columns:
        return ["time         on a CPU: no estimate"]
    limit = "no limit" if plan["time_limit"] is None else f"limit {plan['time_limit'] / 3600:.2f} h"
    rows = [
        ("MFU", "mfu", "{:.3f}", "of the GPUs' peak"),
        ("step", "seconds_per_step", "{:,.2f} s", ""),
        ("link", "steps_per_link", "{:,} steps", f"in a job, {limit}"),
        ("links", "links", "{:,}", ""),
        ("JOBS", "jobs", "{:,}", "with one to spare"),
        ("wall time", "hours", "{:,.1f} h", "with each link's bring-up, without the queue"),
        ("GPU hours", "gpu_hours", "{:,.0f}", ""),
    ]
    gpu = "gpu" in plan
    lines = [f"{'time by':<12}" + "".join(f"{name:>17}" for name in columns)]
    for name, key, form, about in rows:
        if gpu or key not in ("mfu", "gpu_hours"):
            cells = "".join(f"{form.format(c[key]):>17}" for c in columns.values())
            lines.append(f"{name:<12}{cells}  {about}".rstrip())
    if "measured" in columns:
        lines.append(f"  measured: {columns['measured']['source']}")
    return lines


def read_number(name: str, text: object, most: float, zero: bool = False) -> float:
    """An option's number above 0 (zero: or 0), at most `most`. Raises Failure (status 2)."""
    try:
        value = float(str(text))
    except ValueError:
        value = math.nan
    if not (0 < value <= most or (zero and value == 0)):
        usage(f"{name.upper()}={text}; give a number {'from' if zero else 'above'} 0, at most {most:g}")
    return value


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--mfu", help=f"model FLOPs utilization, above 0, at most 1 (default: {MFU})")
    parser.add_argument("--time-limit", help="of a job, in Slurm's forms (default: one job does it all)")
    parser.add_argument("--gpu", default="h100", help=f"{', '.join(GPUS)} (default: h100)")
    parser.add_argument("--gpu-memory", help="GiB (default: the GPU's)")
    parser.add_argument(
        "--bring-up", default=BRING_UP, help=f"seconds before a link's first step (default: {BRING_UP})"
    )
    parser.add_argument(
        "--save-reserve", default=SAVE_RESERVE, help=f"seconds kept for saving (default: {SAVE_RESERVE})"
    )
    parser.add_argument("--nodes", help="plan for so many nodes, with the layout that fits them")
    parser.add_argument("--gpus-per-node", help="GPUs of each (default: the recipe's)")
    parser.add_argument("--scale", choices=["print"], help="only the file of the recipe for --nodes, --gpus-per-node")
    parser.add_argument("--json", action="store_true", help="all figures, as JSON")
    parser.add_argument("--jobs", action="store_true", help="only the number of jobs in the chain")
    parser.add_argument("--eval-tasks", action="store_true", help="only the number of jobs of an evaluation")
    args, recipe, paths = open_run(parser)
    if args.gpu not in GPUS:
        usage(f"no GPU named {args.gpu!r}; it is {', '.join(GPUS)}")
    for name, most in (("mfu", 1), ("gpu_memory", 10_000)):
        if (text := getattr(args, name)) is not None:
            setattr(args, name, read_number(name, text, most))
    for name in ("bring_up", "save_reserve"):
        setattr(args, name, read_number(name, getattr(args, name), 1e6, zero=True))
    scaled = None
    if args.nodes or args.gpus_per_node:
        for name in ("nodes", "gpus_per_node"):
            text = getattr(args, name) or recipe["text"][name.upper()]
            if not positive(text):
                usage(f"{name.upper()}={text}; give a number from 1 up")
            setattr(args, name, int(text))
        gib = args.gpu_memory or GPUS[args.gpu][1]
        scaled = scale(args.model, args.round, paths.work, args.nodes, args.gpus_per_node, gib, args.gpu)
        if args.scale:
            print(scaled.text, end="")
            return
        # Its own data and start, but neither the report nor the pace of the recipe that it is made from.
        recipe, run_ = scaled.recipe, paths.run.parent.with_name(scaled.name) / paths.run.name
        paths.report, paths.train, args.model = run_ / "report", run_ / "train", scaled.name
    elif args.scale:
        usage("SCALE=print is for another number of GPUs; give NODES or GPUS_PER_NODE")
    plan = figures(recipe, paths, args)
    if args.jobs:
        print(jobs_of(plan))
    elif args.eval_tasks:
        print(eval_tasks_of(plan))
    elif args.json:
        print(json.dumps(plan, indent=2))
    else:
        print(render(plan, recipe), end="")
        if scaled:
            file = scaled.file.relative_to(ROOT)
            print(f"\n{scaled.text}\nto save it, run it again with: SCALE=print >{file}")


if __name__ == "__main__":
    run(main)
