"""What a recipe will take: tokens, steps, FLOPs, GPU hours, jobs in the chain, memory of a GPU, disk. Writes nothing.

    python3 python/plan.py qwen7b 1 --work /lustre/me/sft --time-limit 4:00:00
    python3 python/plan.py qwen7b 1 --work /lustre/me/sft --time-limit 4:00:00 --jobs    # only the number of jobs

Standard library only, so it runs on any login node, before data or model are there: then it assumes, and says what.
Each function states its formula and where that comes from. Nothing here has been held against a GPU.
"""

import argparse
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import recipe as recipes
import shapes
from footprint import Layout, adapter_of, disk, layout_of, memory
from lib import Failure, read_done, read_json, read_jsonl, run, usage
from shapes import Shape

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

# Rows of OpenMathReasoning's splits. With additional_problems' 193,170 they sum to the 5,678,317 that its card states;
# the card states the splits rounded: 3.2M, 1.7M, 566K.
PUBLISHED_ROWS = {"cot": 3_201_061, "tir": 1_718_466, "genselect": 565_620}
# Training rows of the Q&A sets (DollyDataModule's 80% of 15,011 rows; SquadDataModule's 95% of 87,599 by datasets'
# train_test_split: NeMo 8cfedd7 nemo/collections/llm/gpt/data/{dolly,squad}.py), and tokens of a row of each schema
# where no report has counted them: guesses. For Llama-Nemotron there is a bound: 2000 steps of 256 rows in the 48 hours
# that are published, at the 12,473 tokens/s that nemo-automodel publishes, are 4,200 tokens a row.
SCHEMA_ROWS = {"dolly": 12_008, "squad": 83_219}
SCHEMA_TOKENS = {"nemotron": 3500, "dolly": 250, "squad": 200}
# Tokens of a row where no report has counted them. A guess for long reasoning; of rows with a lower limit (FILTER_
# MIN_TOKENS), twice that limit. Lengths are then taken as exponentially distributed, so E[t^2] = 2 E[t]^2.
ASSUMED_TOKENS, ASSUMED_SPREAD, ASSUMED_BIN_FILL = 6000, 2.0, 0.95
# nemo-automodel's rows stay in their order (packed.py): simulated with 3,500 tokens a row in sequences of 8,192.
ASSUMED_FILL_IN_ORDER = 0.75
TEXT_BYTES = 3.5  # a token; data that is not there yet holds its text twice, in all.jsonl and splits; an assumption


# --- cluster and recipe --------------------------------------------------------------------------------------------


def time_limit(text: str) -> float:
    """Seconds of a Slurm time limit, inf for none.

    The forms that sbatch --time takes (man sbatch): minutes, minutes:seconds, hours:minutes:seconds, days-hours,
    days-hours:minutes, days-hours:minutes:seconds; UNLIMITED, INFINITE or zero is no limit. Raises Failure (status 2).
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


def shape_of(recipe: recipes.Recipe, paths: recipes.Paths) -> tuple[Shape, str]:
    """(shape, where it is from): the start model's config.json, else the base's, else what is published of it.

    Raises Failure when none of them knows the model.
    """
    for folder in (paths.start, paths.base):
        if shape := shapes.read(folder):
            return shape, f"from {folder / 'config.json'}"
    if recipe["BASE_SOURCE"] == "random":
        keys = ("RANDOM_LAYERS", "RANDOM_HIDDEN", "RANDOM_HEADS", "RANDOM_VOCAB")
        sizes = (int(recipe[k]) for k in keys)
        return shapes.random_shape(recipe["CHAT"], *sizes), "from the recipe's RANDOM_* keys"
    if known := shapes.published(recipe["BASE_MODEL"]):
        return known[1], f"the published shape of {known[0]}; no config.json yet"
    raise Failure(f"the shape of {recipe['BASE_MODEL']} is not known; run make model first")


# --- data ----------------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """Rows and lengths. mean, square: of a row's tokens that the model computes on, and of their square."""

    rows: int | None
    mean: float
    square: float
    bins: int  # sequences that hold a global batch of rows; without packing the rows themselves
    fill: float  # how full those are
    counted: bool  # by a report, not assumed
    source: str = ""
    notes: list[str] = field(default_factory=list)


def moments(report: dict[str, Any]) -> tuple[float, float]:
    """(mean, mean square) of a row's length, over all rows, of which those too long for SEQ_LEN count nothing.

    The report has the mean but no squares: they come from its histogram's classes, at their middle, scaled by how far
    the middles' mean is from the true one. Where rows are too long, the mean comes from the histogram as well.
    """
    edges, counts = report["histogram"]["from"], report["histogram"]["rows"]
    width = edges[1] - edges[0] if len(edges) > 1 else 2 * report["tokens"]["mean"]
    middles = [(n, start + width / 2) for start, n in zip(edges, counts, strict=True) if start < report["seq_len"]]
    total = sum(counts)
    mean = sum(n * x for n, x in middles) / total
    square = sum(n * x * x for n, x in middles) / total
    if report["over_seq_len"] or not mean:
        return mean, square
    true = report["tokens"]["mean"]
    return true, max(true * true, square * (true / mean) ** 2)


def from_report(recipe: recipes.Recipe, report: dict[str, Any]) -> Data:
    mean, square = moments(report)
    if not mean > 0:
        raise Failure(
            f"no row has a token that could be trained on within SEQ_LEN={report['seq_len']:,}, says the data report; "
            "raise SEQ_LEN or make other data"
        )
    about = "every row" if report["whole"] else f"a sample of {report['counted']:,} rows"
    packed = recipe["PACKING"] == "true"
    bins, fill = (report["bins_per_batch"], report["bin_fill"]) if packed else (int(recipe["GLOBAL_BATCH"]), 1.0)
    return Data(report["rows"], mean, square, bins, fill, True, f"the data report, from {about}")


def assumed(recipe: recipes.Recipe, rows: int | None, again: str) -> Data:
    """What is taken for granted before the data are counted, with notes that say so."""
    if "SCHEMA" in recipe:
        return assumed_schema(recipe, rows, again)
    splits = recipe["SPLITS"].split(",")
    filtered = recipe["FILTER_SPLITS"].split(",")
    known = recipe["DATASET"].endswith("/OpenMathReasoning")
    seq_len = int(recipe["SEQ_LEN"])
    notes, source = [], "the prepared data"
    tokens = {s: ASSUMED_TOKENS for s in splits}
    for split in set(filtered) & {"cot", "tir"}:
        tokens[split] = 2 * int(recipe.get("FILTER_MIN_TOKENS", ASSUMED_TOKENS // 2))
    weights = {s: PUBLISHED_ROWS[s] for s in splits} if known else dict.fromkeys(splits, 1)
    if rows is None and known and recipe["FILTER_SPLITS"] == "none":
        rows, source = sum(weights.values()), "as published; not counted here"
    elif rows is None:
        source = ""
        why = f"what the filter keeps of {', '.join(filtered)}" if filtered != ["none"] else "the number of rows"
        notes.append(f"{why} is not known before make data {again}; so there are no epochs")
    # A mix of rows, the filtered splits at their unfiltered weight for want of a better one.
    mean = min(sum(weights[s] * tokens[s] for s in splits) / sum(weights.values()), seq_len / 2)
    return guessed(recipe, rows, mean, source, notes, again)


def guessed(recipe: recipes.Recipe, rows: int | None, mean: float, source: str, notes: list[str], again: str) -> Data:
    """The data of a recipe by a guessed mean length in tokens, with a note that says so."""
    batch, seq_len = int(recipe["GLOBAL_BATCH"]), int(recipe["SEQ_LEN"])
    fill = ASSUMED_BIN_FILL if recipe["ENGINE"] == "nemo-rl" else ASSUMED_FILL_IN_ORDER
    bins = math.ceil(batch * mean / (seq_len * fill)) if recipe["PACKING"] == "true" else batch
    fill = fill if recipe["PACKING"] == "true" else 1.0
    notes.append(f"no report yet: assuming {mean:,.0f} tokens a row, a guess; run make report {again}")
    square = min(ASSUMED_SPREAD * mean * mean, mean * seq_len)
    return Data(rows, mean, square, bins, fill, False, source, notes)


def assumed_schema(recipe: recipes.Recipe, rows: int | None, again: str) -> Data:
    """The same for the data of the NeMo 2.0 tutorials: rows as CURATE_ROWS takes them, or as published."""
    schema, source, notes = recipe["SCHEMA"], "the prepared data", []
    generated = recipe["DATASET_SOURCE"] == "generate"
    if rows is None and schema == "nemotron":
        rows, source = int(recipe["CURATE_ROWS"]) or None, "CURATE_ROWS, if so many are left"
        if rows is None:
            notes.append(f"how many rows are left is not known before make data {again}; so there are no epochs")
    elif rows is None and not generated:
        rows, source = SCHEMA_ROWS[schema], "as published; not counted here"
    elif rows is None:
        notes.append(f"the number of rows is not known before make data {again}; so there are no epochs")
    return guessed(recipe, rows, min(SCHEMA_TOKENS[schema], int(recipe["SEQ_LEN"]) / 2), source, notes, again)


def data_of(recipe: recipes.Recipe, paths: recipes.Paths, again: str) -> tuple[Data, int | None]:
    """(rows and lengths, bytes of the data on disk): counted where a report of this recipe is, else assumed."""
    made = read_json(paths.data / "DONE") if (paths.data / "DONE").is_file() else {}
    size = sum(made["bytes"].values()) if "bytes" in made else None
    rows = made.get("rows", {}).get("all")
    stale = ""
    if (paths.report / "DONE").is_file():
        done = read_done(paths.report, f"run: make report {again}")
        try:
            same = all(recipe.get(k) == v for k, v in done["recipe"].items() if k in recipes.KEYS)
            same = same and made.get("outputs", {}).get(paths.rows.name) in (None, done["inputs"]["data"])
            if same:
                return from_report(recipe, done["report"]), size
        except (KeyError, TypeError, IndexError, ZeroDivisionError) as error:
            why = f"{type(error).__name__}: {error}"
            raise Failure(f"{paths.report}/DONE is no report ({why}); remove it and run: make report {again}") from None
        stale = "the report is of another recipe or other data, and left aside"
    data = assumed(recipe, rows, again)
    data.notes[:0] = [stale] if stale else []
    return data, size


# --- time ----------------------------------------------------------------------------------------------------------


def measured_pace(path: Path, bring_up: float) -> tuple[float, str] | None:
    """(seconds a step, from what), from the records that links leave at each save; None without any.

    Of a link with several saves, the time between its first and its last one, saves included but for one; a link with
    one save counts from its start, less the assumed bring-up, and only if no link has more.
    """
    links: dict[int, list[dict[str, Any]]] = {}
    if path.is_file():
        for row in read_jsonl(path, torn_tail=True):
            try:
                links.setdefault(row["link"], []).append({k: float(row[k]) for k in ("from", "step", "seconds")})
            except (KeyError, TypeError, ValueError):
                raise Failure(f"{path}: a row without link, from, step and seconds; mend or remove it") from None
    spans = [(rows[-1]["step"] - rows[0]["step"], rows[-1]["seconds"] - rows[0]["seconds"]) for rows in links.values()]
    kind = "between saves"
    if not any(steps > 0 for steps, _ in spans):
        first = [rows[0] for rows in links.values()]
        spans = [(row["step"] - row["from"], max(row["seconds"] - bring_up, 0.0)) for row in first]
        kind = f"after {bring_up:,.0f} s of bring-up, assumed"
    steps, seconds = sum(s for s, _ in spans if s > 0), sum(t for s, t in spans if s > 0)
    if steps <= 0 or seconds <= 0:
        return None
    return seconds / steps, f"{steps:,.0f} steps of {len(links)} link(s), {kind}"


def chain(steps: int, pace: float, limit: float, bring_up: float, reserve: float) -> tuple[int, int]:
    """(steps of a link, links): floor((limit - bring-up - reserve) / pace), at least one step, and ceil(steps / that).

    A link stops by itself `reserve` seconds before its limit (sbatch/train.sbatch) and always finishes one step.
    """
    if math.isinf(limit):
        return steps, 1
    fit = min(steps, max(1, math.floor((limit - bring_up - reserve) / pace)))
    return fit, math.ceil(steps / fit)


def timing(pace: float, recipe: recipes.Recipe, gpus: int, limit: float, bring_up: float, reserve: float) -> dict:
    """What a pace (seconds a step) makes of the run. hours: of the links, each with its bring-up, without the
    queue and the saves.

    jobs: links plus one spare, for one that is lost; a job that finds the run finished ends in seconds.
    """
    steps = int(recipe["STEPS"])
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


def figures(recipe: recipes.Recipe, paths: recipes.Paths, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the plan says. Bytes, seconds, tokens; shares between 0 and 1. Raises Failure."""
    again = f"MODEL={args.model} ROUND={args.round}"
    shape, origin = shape_of(recipe, paths)
    layout = layout_of(recipe)
    data, size = data_of(recipe, paths, again)
    batch, steps = int(recipe["GLOBAL_BATCH"]), int(recipe["STEPS"])
    # NeMo-RL spreads a batch over as many sequences as divide by the replicas (bin_count_multiple), and so does
    # dataset.py for nemo-automodel.
    sequences = math.ceil(data.bins / layout.dp) * layout.dp if recipe["PACKING"] == "true" else batch
    micro_batches = sequences // layout.dp // (1 if recipe["PACKING"] == "true" else int(recipe["MICRO_BATCH"]))
    adapter = adapter_of(shape, recipe)
    flops = shape.flops(batch * data.mean, batch * data.square, adapter)
    notes, warnings = list(data.notes), []
    plan: dict[str, Any] = {
        "model": args.model,
        "round": args.round,
        "layout": vars(layout) | {"dp": layout.dp, "nodes": int(recipe["NODES"])},
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
    recompute = recipe.get("ACTIVATION_CHECKPOINTING", "false") == "true"
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
    if measured := measured_pace(paths.train / "links.jsonl", args.bring_up):
        plan["time"]["measured"] = column(measured[0]) | {"source": measured[1]}
    if on_gpu:
        if recipe["PACKING"] == "true" and data.bins < layout.dp:
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
    recipe: recipes.Recipe,
    args: argparse.Namespace,
    limit: float,
) -> None:
    """Append to plan["warnings"] what will not fit on these GPUs or into these jobs."""
    warnings, need, have = plan["warnings"], plan["memory"]["total"], plan["gpu"]["gib"] * GIB
    per_node = int(recipe["GPUS_PER_NODE"])
    if need > FILL * have:
        remedies = ["raise TP or CP", "more NODES" if layout.backend == "fsdp" else "raise PP"]
        if recipe["ENGINE"] != "nemo-rl":  # which are driven here without CP and PP
            remedies = ["raise GPUS_PER_NODE" if layout.backend == "fsdp" else "raise TP"]
        if recipe.get("ACTIVATION_CHECKPOINTING", "false") != "true":
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


def size_text(count: float) -> str:
    return (
        f"{count / 1e12:,.1f} TB"
        if count >= 1e12
        else f"{count / 1e9:,.1f} GB"
        if count >= 1e8
        else f"{count / 1e6:,.1f} MB"
    )


def render(plan: dict[str, Any], recipe: recipes.Recipe) -> str:
    """The plan as people read it."""
    out: list[str] = []

    def line(name: str, value: str, about: str = "") -> None:
        out.append(f"{name:<12}{value:>17}  {about}".rstrip())

    lay, d, f = plan["layout"], plan["data"], plan["flops"]
    where = f"{lay['nodes']} x {lay['gpus'] // lay['nodes']} {plan['gpu']['name']}" if "gpu" in plan else "CPU"
    where += f", {recipe['ENGINE']} ({lay['backend']}), TP {lay['tp']} CP {lay['cp']} PP {lay['pp']} EP {lay['ep']}"
    out.append(f"{plan['model']} round {plan['round']}: {where}, {lay['dp']} replica(s)")
    about = "" if d["counted"] else " (assumed)"
    line("parameters", f"{plan['parameters']:,}", plan["shape"])
    line("  a token", f"{plan['matmul_parameters']:,}", "of them multiply it")
    if plan["adapter_parameters"]:
        frozen = f"trained, LoRA of rank {recipe['LORA_RANK']}; the others are frozen"
        line("  adapter", f"{plan['adapter_parameters']:,}", frozen)
    if d["rows"]:
        line("rows", f"{d['rows']:,}", d["source"])
        line("tokens", f"{d['tokens_per_epoch']:,}", f"an epoch; {d['tokens_per_row']:,.0f} a row{about}")
        line("steps", f"{d['steps_per_epoch']:,}", f"an epoch of GLOBAL_BATCH={int(recipe['GLOBAL_BATCH']):,} rows")
    else:
        line("tokens", "?", f"an epoch; {d['tokens_per_row']:,.0f} a row{about}")
    epochs = "" if d["epochs"] is None else f", {d['epochs']:.2f} epochs"
    line("", f"{int(recipe['STEPS']):,}", f"in all{epochs}; {d['tokens_per_step']:,.0f} tokens each{about}")
    if recipe["PACKING"] == "true":
        more = (
            f"; {d['sequences']:,} to be the same for each of {lay['dp']} replicas"
            if d["sequences"] > d["bins"]
            else ""
        )
        line(
            "packed",
            f"{d['bins']:,}",
            f"sequences of {int(recipe['SEQ_LEN']):,} a step, {d['bin_fill']:.0%} full{more}",
        )
    line("model FLOPs", f"{f['step']:.3e}", f"a step, {f['attention']:.0%} of it attention; {f['run']:.3e} the run")
    out += ["", *time_lines(plan)]
    if plan["memory"]:
        kinds = ", ".join(f"{k} {v / GIB:,.1f}" for k, v in plan["memory"].items() if k != "total")
        line("GPU memory", f"{plan['memory']['total'] / GIB:,.1f} GiB", f"of {plan['gpu']['gib']:g}: {kinds}")
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
    parser = recipes.parser(__doc__)
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
    parser.add_argument("--json", action="store_true", help="all figures, as JSON")
    parser.add_argument("--jobs", action="store_true", help="only the number of jobs in the chain")
    args, recipe, paths = recipes.open_run(parser)
    if args.gpu not in GPUS:
        usage(f"no GPU named {args.gpu!r}; it is {', '.join(GPUS)}")
    for name, most in (("mfu", 1), ("gpu_memory", 10_000)):
        if (text := getattr(args, name)) is not None:
            setattr(args, name, read_number(name, text, most))
    for name in ("bring_up", "save_reserve"):
        setattr(args, name, read_number(name, getattr(args, name), 1e6, zero=True))
    plan = figures(recipe, paths, args)
    if args.jobs:
        print(jobs_of(plan))
    elif args.json:
        print(json.dumps(plan, indent=2))
    else:
        print(render(plan, recipe), end="")


if __name__ == "__main__":
    run(main)
