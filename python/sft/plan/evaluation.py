"""What the evaluation of a run will take: tokens, GPU hours, jobs of the array, wall time. Not compared with a GPU yet.

Standard library only. A token is generated for all sequences at once, and each such step reads the weights and the
keys and values from the GPU's memory: that bounds the rate. How much of it is reached, and how long answers are, is
assumed, and said.
"""

import math
from dataclasses import dataclass
from typing import Any

from sft.eval.benchmarks.pins import pins
from sft.lib.errors import Failure
from sft.lib.progress import many
from sft.plan.shapes import Shape
from sft.recipe.keys import Recipe

# TB/s of a GPU's memory, from NVIDIA's data sheets of the cards that estimate.GPUS names.
BANDWIDTH = {"a100": 2.039, "h100": 3.35, "h200": 4.8, "b200": 8.0, "gb200": 8.0}
REACHED = 0.5  # of the rate that the memory would allow. An assumption
FILL = 0.9  # of a GPU's memory that vLLM takes (gpu_memory_utilization's default)
BYTES = 2  # of a weight, a key or a value in bfloat16
# Tokens of a mean answer: arXiv 2504.16891, table 10, for competition problems; of genselect an assumption.
COMPETITION = {"cot": 11_200, "tir": 15_800, "genselect": 1_000}
COMPETITIONS = ("comp-math-24-25", "aime24", "aime25", "hle-math")
SHORT = 1_000  # of any other set's. An assumption
PROMPT = {"cot": 200, "tir": 250, "genselect": 10_000}  # tokens of a prompt. An assumption
START = 300  # seconds until a job has loaded its model and compiled it. An assumption
SHARE = 0.7  # of a job's time limit that its answers may take: the slowest come last


@dataclass(frozen=True)
class Load:
    """What one model is asked: samples, and the tokens that it reads and writes."""

    samples: int
    read: int
    written: int


def load_of(recipe: Recipe, base: bool) -> Load:
    """base: of the model that training started from, of whose answers a Math base writes at most 4,096 tokens."""
    from sft.eval.protocols.read import protocol

    rules = protocol(recipe["EVAL_PROTOCOL"])
    samples = read = written = 0
    for name, number in recipe["EVAL_SET"]:
        known = pins()[name].rows if name in pins() else 0
        for mode in recipe["EVAL_MODE"]:
            longest = recipe["EVAL_MAX_TOKENS"] if "EVAL_MAX_TOKENS" in recipe else rules.mode(mode).max_tokens
            mean = min(COMPETITION[mode] if name in COMPETITIONS else SHORT, longest)
            if base and "MAX_POSITIONS" in recipe:
                mean = min(mean, 4096 - PROMPT["cot"])
            count = known * max(1, number)
            samples, read, written = samples + count, read + count * PROMPT[mode], written + count * mean
    return Load(samples, read, written)


def rate(shape: Shape, gpus: int, bandwidth: float, memory: float, context: float) -> float:
    """Tokens a second of one engine. bandwidth: bytes a second of a GPU; memory: its bytes; context: mean tokens that a
    sequence has. Raises Failure when the model does not fit."""
    weights = shape.parameters * BYTES
    room = FILL * memory * gpus - weights
    if room <= 0:
        raise Failure(
            f"the model's {weights / 1e9:,.0f} GB do not fit on {many(gpus, 'GPU')} of {memory / 1e9:,.0f} GB for the "
            "evaluation; raise EVAL_TP"
        )
    sequence = 2 * shape.layers * shape.kv * BYTES * context
    sequences = max(1, min(1024, int(room / sequence)))
    return REACHED * sequences * bandwidth * gpus / (weights + sequences * sequence)


def figures(recipe: Recipe, shape: Shape, gpu: str, gib: float, tflops: float, limit: float) -> dict[str, Any] | None:
    """samples, tokens, GPU hours, jobs of each model, hours of the longest job; None where nothing is planned: there is
    no EVAL_SET, or no protocol, or no GPU. limit: seconds of a job, inf for none."""
    if recipe.get("EVAL_ENGINE") != "vllm" or "EVAL_PROTOCOL" not in recipe:
        return None
    gpus, made = recipe["EVAL_TP"], []
    for base in (False, True):
        load = load_of(recipe, base)
        if not load.samples:
            return None
        mean = load.written / load.samples
        speed = rate(shape, gpus, BANDWIDTH[gpu] * 1e12, gib * 2**30, load.read / load.samples + mean / 2)
        prefill = 2 * shape.matmul_parameters * load.read / (0.4 * tflops * 1e12 * gpus)
        made.append((load, load.written / speed + prefill))
    seconds = max(made[0][1], made[1][1])
    tasks = 1 if math.isinf(limit) else max(1, math.ceil(seconds / max(60.0, SHARE * limit - START)))
    return {
        "samples": sum(load.samples for load, _ in made),
        "tokens": sum(load.written for load, _ in made),
        "gpu_hours": sum(time for _, time in made) * gpus / 3600 + 2 * tasks * START * gpus / 3600,
        "tasks": min(tasks, 999),
        "gpus": gpus,
        "hours": seconds / tasks / 3600 + START / 3600,
    }
