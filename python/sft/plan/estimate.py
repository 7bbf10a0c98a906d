"""What a recipe will take: tokens, steps, FLOPs, GPU hours, jobs in the chain, memory of a GPU, disk.

Standard library only, so it runs on any login node, before data or model are there: then it assumes, and says what.
Each function states its formula and where that comes from. Not yet compared with a real GPU.
"""

import argparse
import math
import re
from pathlib import Path
from typing import Any

from sft.lib.errors import Failure, usage
from sft.lib.files import read_jsonl
from sft.lib.progress import many
from sft.plan import evaluation, shapes
from sft.plan.footprint import Layout, adapter_of, disk, layout_of, memory
from sft.plan.lengths import TEXT_BYTES, data_of
from sft.plan.shapes import Shape
from sft.recipe.engines import engine_of
from sft.recipe.keys import Recipe, random_sizes
from sft.recipe.paths import Paths

GIB = 2**30
# Name: (peak TFLOP/s of dense bfloat16 matrix products, memory in GB as the name of the card has it).
# Source: NVIDIA's data sheets of A100 80GB SXM, H100 SXM, H200 SXM, HGX B200 and GB200 NVL72; the newer ones state the
# rate with sparsity, which is twice this.
GPUS = {"a100": (312, 80), "h100": (989.5, 80), "h200": (989.5, 141), "b200": (2250, 180), "gb200": (2500, 186)}
# Share of a GPU's memory that a plan may fill. The rest: CUDA's context, NCCL's buffers, fragments. An assumption.
FILL = 0.92
# Model FLOPs utilization: model FLOPs a second over the GPUs' peak. Llama 3 was pre-trained with 0.38 to 0.43 on H100
# (Dubey et al. 2024, table 4); fine-tuning of packed rows over 64 nodes need not reach it. An assumption.
MFU = 0.4
BRING_UP = 600  # seconds of a link before its first step: container, Ray, model and optimizer. An assumption.
SAVE_RESERVE = 120  # seconds; the default of sbatch/train.sbatch
MAX_JOBS = 99  # of submit.sh


# --- cluster and recipe --------------------------------------------------------------------------------------------


def time_limit(text: str) -> float:
    """Seconds of a Slurm time limit, inf for none.

    The forms that sbatch --time takes (man sbatch): minutes, minutes:seconds, hours:minutes:seconds, days-hours,
    days-hours:minutes, days-hours:minutes:seconds; UNLIMITED, INFINITE or zero: no limit. Raises Failure (status 2).
    """
    if text.upper() in ("UNLIMITED", "INFINITE"):
        return math.inf
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        usage(f"time limit {text!r} is none of Slurm's forms; write minutes, 4:00:00, 1-12 or UNLIMITED")
    days, *rest = match.groups()
    a, b, c = (int(x or 0) for x in rest)
    if days is not None:
        seconds = int(days) * 86400 + a * 3600 + b * 60 + c
    elif rest[2] is not None:
        seconds = a * 3600 + b * 60 + c
    else:
        seconds = a * 60 + b
    return seconds or math.inf


def shape_of(recipe: Recipe, paths: Paths) -> tuple[Shape, str]:
    """(shape, where it is from): the start model's config.json, else the base's, else what is published of it.

    Raises Failure when none of them knows the model.
    """
    for folder in (paths.start, paths.base):
        if shape := shapes.read(folder):
            return shape, f"from {folder / 'config.json'}"
    if recipe["BASE_SOURCE"] == "random":
        return shapes.random_shape(recipe["CHAT"], *random_sizes(recipe)), "from the recipe's RANDOM_* keys"
    if known := shapes.published(recipe["BASE_MODEL"]):
        return known[1], f"the published shape of {known[0]}; no config.json yet"
    raise Failure(f"the shape of {recipe['BASE_MODEL']} is not known; run make model first")


# --- time ----------------------------------------------------------------------------------------------------------


def measured_pace(path: Path, bring_up: float) -> tuple[float, str] | None:
    """(seconds a step, from what), from the records that links leave at each save; None without any.

    A link with several saves gives the time from its first to its last one, with all saves except one. A link with
    one save counts from its start, less the assumed bring-up, and only if no link has more.
    """
    links: dict[int, list[dict[str, Any]]] = {}
    if path.is_file():
        for row in read_jsonl(path, torn_tail=True):
            try:
                links.setdefault(row["link"], []).append({k: float(row[k]) for k in ("from", "step", "seconds")})
            except (KeyError, TypeError, ValueError):
                raise Failure(f"{path}: a row without link, from, step and seconds; fix or remove it") from None
    spans = [(rows[-1]["step"] - rows[0]["step"], rows[-1]["seconds"] - rows[0]["seconds"]) for rows in links.values()]
    kind = "between saves"
    if not any(steps > 0 for steps, _ in spans):
        first = [rows[0] for rows in links.values()]
        spans = [(row["step"] - row["from"], max(row["seconds"] - bring_up, 0.0)) for row in first]
        kind = f"after {bring_up:,.0f} s of bring-up, assumed"
    steps, seconds = sum(s for s, _ in spans if s > 0), sum(t for s, t in spans if s > 0)
    if steps <= 0 or seconds <= 0:
        return None
    return seconds / steps, f"{steps:,.0f} steps of {many(len(links), 'link')}, {kind}"


def chain(steps: int, pace: float, limit: float, bring_up: float, reserve: float) -> tuple[int, int]:
    """(steps of a link, links): floor((limit - bring-up - reserve) / pace), at least one step, and ceil(steps / that).

    A link stops by itself `reserve` seconds before its limit (sbatch/train.sbatch) and always finishes one step.
    """
    if math.isinf(limit):
        return steps, 1
    fit = min(steps, max(1, math.floor((limit - bring_up - reserve) / pace)))
    return fit, math.ceil(steps / fit)


def timing(pace: float, recipe: Recipe, gpus: int, limit: float, bring_up: float, reserve: float) -> dict:
    """What a pace (seconds a step) makes of the run. hours: of the links, each with its bring-up, without the
    queue and the saves.

    jobs: links plus one spare, for one that is lost; a job that finds the run finished ends in seconds.
    """
    steps = recipe["STEPS"]
    fit, links = chain(steps, pace, limit, bring_up, reserve)
    hours = (steps * pace + links * bring_up) / 3600
    return {
        "seconds_per_step": pace,
        "steps_per_link": fit,
        "links": links,
        "jobs": links + 1,
        "hours": hours,
        "gpu_hours": hours * gpus,
    }


# --- the plan ------------------------------------------------------------------------------------------------------


def figures(recipe: Recipe, paths: Paths, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the plan says. Bytes, seconds, tokens; shares between 0 and 1. Raises Failure."""
    again = f"MODEL={args.model} ROUND={args.round}"
    shape, origin = shape_of(recipe, paths)
    layout = layout_of(recipe)
    data, size = data_of(recipe, paths, again)
    batch, steps = recipe["GLOBAL_BATCH"], recipe["STEPS"]
    # NeMo-RL spreads a batch over as many sequences as divide by the replicas (bin_count_multiple), and so does
    # rows/packing.py for nemo-automodel.
    sequences = math.ceil(data.bins / layout.dp) * layout.dp if recipe["PACKING"] else batch
    micro_batches = sequences // layout.dp // (1 if recipe["PACKING"] else recipe["MICRO_BATCH"])
    adapter = adapter_of(shape, recipe)
    flops = shape.flops(batch * data.mean, batch * data.square, adapter)
    notes, warnings = list(data.notes), []
    plan: dict[str, Any] = {
        "model": args.model,
        "round": args.round,
        "layout": vars(layout) | {"dp": layout.dp, "nodes": recipe["NODES"]},
        "parameters": shape.parameters,
        "matmul_parameters": shape.matmul_parameters,
        "adapter_parameters": adapter,
        "shape": origin,
        "data": {
            "rows": data.rows,
            "source": data.source,
            "counted": data.counted,
            "tokens_per_row": data.mean,
            "tokens_per_epoch": round(data.rows * data.mean) if data.rows else None,
            "tokens_per_step": batch * data.mean,
            "steps_per_epoch": data.rows // batch if data.rows else None,
            "epochs": steps * batch / data.rows if data.rows else None,
            "bins": data.bins,
            "bin_fill": data.fill,
            "sequences": sequences,
            "micro_batches": micro_batches,
        },
        "flops": {
            "step": flops,
            "run": flops * steps,
            "token": flops / (batch * data.mean),
            "attention": 1 - shape.flops(batch * data.mean, 0, adapter) / flops,
        },
        "time": {},
        "memory": None,
        "disk": disk(
            shape, recipe, paths, round(2 * (data.rows or 0) * data.mean * TEXT_BYTES) if size is None else size
        ),
        "notes": notes,
        "warnings": warnings,
    }
    limit = time_limit(args.time_limit) if args.time_limit else None
    plan["time_limit"] = None if limit is None or math.isinf(limit) else limit
    on_gpu = recipe["DEVICE"] == "gpu"
    peak = GPUS[args.gpu][0] * 1e12 * layout.gpus
    recompute = recipe["ACTIVATION_CHECKPOINTING"]
    # Recomputation runs the forward pass twice: 4 passes' worth of work for 3 that count, or 3 for LoRA's 2.
    mfu = args.mfu or MFU * ((2 / 3 if adapter else 3 / 4) if recompute else 1)
    bound = math.inf if limit is None else limit

    def column(pace: float) -> dict[str, Any]:
        made = timing(pace, recipe, layout.gpus, bound, args.bring_up, args.save_reserve)
        return made | ({"mfu": flops / pace / peak} if on_gpu else {})

    if on_gpu:
        plan["gpu"] = {"name": args.gpu, "tflops": GPUS[args.gpu][0], "gib": args.gpu_memory or GPUS[args.gpu][1]}
        plan["time"]["stated"] = column(flops / (peak * mfu))
        plan["memory"] = memory(shape, recipe, layout, micro_batches)
        plan["evaluation"] = evaluation.figures(
            recipe, shape, args.gpu, args.gpu_memory or GPUS[args.gpu][1], GPUS[args.gpu][0], bound
        )
    if measured := measured_pace(paths.train / "links.jsonl", args.bring_up):
        plan["time"]["measured"] = column(measured[0]) | {"source": measured[1]}
    if on_gpu:
        if recipe["PACKING"] and data.bins < layout.dp:
            notes.append(
                f"a batch fills {data.bins:,} sequences for {layout.dp} replicas: each has less to do at a time than "
                "the MFU supposes; fewer NODES would do"
            )
        if limit is None:
            notes.append("no time limit given: all in one link; set SBATCH_TIMELIMIT in cluster.env")
        gpu_warnings(plan, shape, layout, recipe, args, bound)
    room = plan["disk"]
    if room["missing"] > room["free"]:
        warnings.append(
            f"disk: {size_text(room['missing'])} still to be written, {size_text(room['free'])} free in "
            f"{room['folder']}; set WORK to a larger disk, or raise SAVE_EVERY"
        )
    return plan


def gpu_warnings(
    plan: dict[str, Any],
    shape: Shape,
    layout: Layout,
    recipe: Recipe,
    args: argparse.Namespace,
    limit: float,
) -> None:
    """Append to plan["warnings"] what will not fit on these GPUs or into these jobs."""
    warnings, need, have = plan["warnings"], plan["memory"]["total"], plan["gpu"]["gib"] * GIB
    per_node = recipe["GPUS_PER_NODE"]
    if need > FILL * have:
        remedies = ["raise TP or CP", "more NODES" if layout.backend == "fsdp" else "raise PP"]
        if not engine_of(recipe).rl:  # which are driven here without CP and PP
            remedies = ["raise GPUS_PER_NODE" if layout.backend == "fsdp" else "raise TP"]
        if not recipe["ACTIVATION_CHECKPOINTING"]:
            remedies.insert(1, "ACTIVATION_CHECKPOINTING=true")
        what = f"{need / GIB:,.1f} GiB a GPU exceed {FILL:.0%} of {plan['gpu']['gib']:g} GiB"
        warnings.append(f"memory: {what}; {', '.join(remedies)}")
    if layout.tp > per_node:
        warnings.append(f"TP={layout.tp} reaches beyond a node of {per_node} GPUs, over a slow network; lower TP")
    # Megatron Core 0.15 divides the key-value heads, too (core/transformer/attention.py, num_query_groups).
    if shape.kv_heads % layout.tp or shape.heads % layout.tp:
        warnings.append(
            f"TP={layout.tp} does not divide {shape.heads} heads and {shape.kv_heads} key-value heads; lower TP"
        )
    if shape.layers % layout.pp:
        warnings.append(f"PP={layout.pp} does not divide {shape.layers} layers; change PP")
    if shape.experts % layout.ep or (layout.ep > 1 and not shape.experts):
        warnings.append(f"EP={layout.ep} does not divide {shape.experts} experts; change EP")
    for name, made in plan["time"].items():
        if limit - args.bring_up - args.save_reserve < made["seconds_per_step"]:
            warnings.append(
                f"time: bring-up, reserve and one step ({name}) exceed the limit of {limit:,.0f} s; ask for more time"
            )
    jobs = jobs_of(plan)
    if jobs > MAX_JOBS:
        warnings.append(f"{jobs} jobs are more than the {MAX_JOBS} of a chain; ask for more time or NODES")


def jobs_of(plan: dict[str, Any]) -> int:
    """Jobs of the chain: by the measured pace where there is one, else by the stated MFU. Raises Failure."""
    made = plan["time"].get("measured") or plan["time"].get("stated")
    if not made:
        raise Failure(f"recipe {plan['model']} runs on a CPU, of which there is no estimate; set JOBS to a number")
    return made["jobs"]


def eval_tasks_of(plan: dict[str, Any]) -> int:
    """Jobs that the evaluation of one model is spread over. Raises Failure."""
    if not plan.get("evaluation"):
        raise Failure(f"there is no estimate of an evaluation of recipe {plan['model']}; set EVAL_TASKS to a number")
    return plan["evaluation"]["tasks"]


def size_text(count: float) -> str:
    return (
        f"{count / 1e12:,.1f} TB"
        if count >= 1e12
        else f"{count / 1e9:,.1f} GB"
        if count >= 1e8
        else f"{count / 1e6:,.1f} MB"
    )
