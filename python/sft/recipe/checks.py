"""Whether the values of a recipe go together. Every rule is applied before anything is queued."""

from collections.abc import Callable

from sft.lib.errors import Failure, usage
from sft.recipe.engines import backend_of, engine_of, replicas, sequence_unit
from sft.recipe.keys import FORMS, KEYS, Recipe


def parse(model: str, text: dict[str, str]) -> Recipe:
    """The typed values of a recipe's keys, each by itself. Raises Failure (status 2) for a missing or malformed one."""
    recipe: Recipe = {"text": text}
    for key, known in KEYS.items():
        if key in text:
            try:
                recipe[key] = FORMS[key].read(text[key])  # type: ignore[literal-required]  # each key in turn
            except ValueError:
                usage(f"recipe {model}: {key}={text[key]} is not valid; it must be {FORMS[key].words}")
        elif known.required:
            usage(f"recipe {model}: {key} is missing; add it")
    return recipe


def check(model: str, r: Recipe) -> None:
    """Refuse what cannot train, or would train something else than it says. Raises Failure (status 2)."""

    def demand(holds: bool, why: str) -> None:
        if not holds:
            usage(f"recipe {model}: {why}")

    engine, text = engine_of(r), r["text"]
    rl = engine.rl
    for key in ("BACKEND", "MAX_EPOCHS"):
        demand((key in r) == rl, f"{key} goes with ENGINE=nemo-rl; set both or none")
    demand(not engine.tutorial or "VARIANT" in r, "ENGINE=nemo2 needs VARIANT; add it")
    lora = [k for k in KEYS if k.startswith("LORA_")]
    for key in lora:
        demand((key in r) == ("LORA_RANK" in r), f"{key} goes with the other LORA_ keys; set all or none")
    demand("LORA_RANK" not in r or not rl, "LoRA is not driven here with ENGINE=nemo-rl; remove the LORA_ keys")
    demand(r["SHUFFLE"] or not rl, "SHUFFLE=false is not driven with ENGINE=nemo-rl; set SHUFFLE=true")
    tp, cp, pp, ep, etp = r["TP"], r["CP"], r["PP"], r["EP"], r["ETP"]
    processes = r["NODES"] * r["GPUS_PER_NODE"]
    demand(processes % (tp * cp * pp) == 0, f"{processes} GPUs do not divide by TP*CP*PP={tp * cp * pp}; change NODES")
    # The experts' parallelism is laid over the same GPUs, independently of TP and CP.
    demand(etp == 1 or ep > 1, f"ETP={etp} goes with EP > 1; set ETP=1")
    demand(
        processes % (etp * ep * pp) == 0,
        f"{processes} GPUs do not divide by ETP*EP*PP={etp * ep * pp}; change NODES or EP",
    )
    dp, batch = replicas(r), r["GLOBAL_BATCH"]
    # NeMo-RL deals a global batch out to the replicas (v0.7.0 nemo_rl/distributed/batched_data_dict.py:399).
    demand(
        batch % (dp * r["MICRO_BATCH"]) == 0,
        f"GLOBAL_BATCH={batch} does not divide by {dp} replicas of MICRO_BATCH={r['MICRO_BATCH']}; change one",
    )
    unit = sequence_unit(r)
    demand(not rl or r["SEQ_LEN"] % unit == 0, f"SEQ_LEN={r['SEQ_LEN']} does not divide by 2*CP*TP={unit}; change it")
    backend = backend_of(r) if rl else None
    demand(
        backend != "megatron" or cp == 1 or r["PACKING"],
        "CP > 1 needs PACKING=true on Megatron; set it",  # NeMo-RL v0.7.0 nemo_rl/models/megatron/setup.py:629-636
    )
    demand(
        backend != "fsdp" or cp == 1 or not r["PACKING"],
        "BACKEND=fsdp cannot pack with CP > 1; set PACKING=false or BACKEND=megatron",  # automodel/setup.py:384
    )
    demand(
        backend != "fsdp" or (pp, ep) == (1, 1),
        "BACKEND=fsdp is driven here without PP and EP; set PP=1 EP=1 or BACKEND=megatron",
    )
    demand(not engine.no_cp or cp == 1, f"CP={cp}: {engine.no_cp}; set CP=1")
    demand(
        rl or (cp, pp, ep) == (1, 1, 1),
        f"engine {r['ENGINE']} is driven here without CP, PP and EP; set CP=1 PP=1 EP=1",
    )
    demand(
        not r["PACKING"] or rl or (engine.bins == "in_order" and r["MICRO_BATCH"] == 1 and tp == 1),
        f"PACKING=true with ENGINE={r['ENGINE']} needs automodel with MICRO_BATCH=1 and TP=1; change one",
    )
    for key in ("VAL_DATASET", "VAL_EVERY", "VAL_BATCHES"):
        demand((key in r) == ("VAL_DATASET" in r), f"{key} goes with VAL_DATASET; set both or none")
        demand(rl or key not in r, f"{key} needs ENGINE=nemo-rl, the one that validates here; remove it")
    # What is rendered here without the model's own template is ChatML.
    schema = r["SCHEMA"]
    demand(
        r["CHAT"] == "chatml" or schema != "openmath" or r["DATASET_SOURCE"] == "prepared",
        f"CHAT={r['CHAT']} needs rows rendered with that template; set DATASET_SOURCE=prepared",
    )
    for key in ("SPLITS", "FILTER_SPLITS"):
        demand(
            (key in r) == (schema == "openmath"),
            f"{key} goes with OpenMathReasoning's schema; remove it, or set SCHEMA=openmath",
        )
    demand(("VARIANT" in r) == (schema != "openmath"), "VARIANT goes with every SCHEMA but openmath; set both or none")
    demand(
        r.get("VARIANT") != "published" or engine.tutorial,
        f"VARIANT=published is what NeMo 2.0 makes of it, not {r['ENGINE']}; set ENGINE=nemo2",
    )
    for key in (k for k in KEYS if k.startswith("CURATE_")):
        demand((key in r) == (schema == "nemotron"), f"{key} goes with SCHEMA=nemotron; set all of them or none")
    if schema == "nemotron":
        demand(r["CHAT"] == "llama3", "SCHEMA=nemotron is rendered with the model's template; set CHAT=llama3")
        longest, fits = r["CURATE_MAX_TOKENS"], r["SEQ_LEN"]
        demand(
            longest <= fits or r["VARIANT"] == "published",
            f"CURATE_MAX_TOKENS={longest} lets in rows longer than SEQ_LEN={fits}, which would be cut; lower it",
        )
    if schema in ("dolly", "squad"):
        demand(r["CHAT"] == "none", f"SCHEMA={schema} has no chat template; set CHAT=none")
    total, every = r["STEPS"], r["SAVE_EVERY"]
    average = r["AVERAGE_STEPS"]
    demand(
        list(average) == sorted(set(average)),
        f"AVERAGE_STEPS={text['AVERAGE_STEPS']} must ascend without repeats; sort it",
    )
    lost = [s for s in average if s > total or (s % every and s != total)]
    demand(
        not lost,
        f"step {(lost or [0])[0]} of AVERAGE_STEPS is never saved with SAVE_EVERY={every}, STEPS={total}; change one",
    )
    demand("LORA_RANK" not in r or len(average) == 1, f"adapters are not averaged; set AVERAGE_STEPS={max(average)}")
    demand(r["MIN_LR"] <= r["LR"], f"MIN_LR={text['MIN_LR']} is above LR={text['LR']}; swap them")
    demand(r["WARMUP_INIT"] <= r["LR"], f"WARMUP_INIT={text['WARMUP_INIT']} is above LR={text['LR']}; lower it")
    demand(r["WARMUP"] < total, f"WARMUP={r['WARMUP']} is not shorter than STEPS={total}; shorten it")
    demand(("ROPE_THETA" in r) == ("MAX_POSITIONS" in r), "ROPE_THETA and MAX_POSITIONS go together; set both or none")
    math_base = "Math" in r["BASE_MODEL"] or r["BASE_SOURCE"] == "random"
    demand(
        "ROPE_THETA" not in r or math_base,
        f"{r['BASE_MODEL']} is not a Math base, whose RoPE upstream leaves alone; remove ROPE_THETA and MAX_POSITIONS",
    )
    if "MAX_POSITIONS" in r:
        demand(
            r["SEQ_LEN"] <= r["MAX_POSITIONS"],
            f"SEQ_LEN={r['SEQ_LEN']} exceeds MAX_POSITIONS={r['MAX_POSITIONS']}; shorten it",
        )
    random_keys = ("RANDOM_LAYERS", "RANDOM_HIDDEN", "RANDOM_HEADS", "RANDOM_VOCAB")
    for key in random_keys:
        demand((key in r) == (r["BASE_SOURCE"] == "random"), f"{key} goes with BASE_SOURCE=random; set both or none")
    demand(
        ("GENERATE_PROBLEMS" in r) == (r["DATASET_SOURCE"] == "generate"),
        "GENERATE_PROBLEMS goes with DATASET_SOURCE=generate; set both or none",
    )
    for key in (k for k in KEYS if k.startswith("FILTER_") and k != "FILTER_SPLITS"):
        demand((key in r) == bool(r.get("FILTER_SPLITS")), f"{key} goes with FILTER_SPLITS; set both or none")
    if r["BASE_SOURCE"] == "random":
        demand(
            r["RANDOM_HIDDEN"] % (2 * r["RANDOM_HEADS"]) == 0,
            "RANDOM_HIDDEN must divide by twice RANDOM_HEADS (RoPE needs an even head size); change one",
        )
    check_eval(r, demand)


def check_eval(r: Recipe, demand: Callable[[bool, str], None]) -> None:
    """The rules of the EVAL_ keys: what is measured, by which protocol, with what engine."""
    for key in (
        "EVAL_ENGINE",
        "EVAL_TP",
        "EVAL_PROTOCOL",
        "EVAL_MODE",
        "EVAL_MAX_TOKENS",
        "EVAL_TEMPERATURE",
        "EVAL_TOP_P",
    ):
        demand(key not in r or "EVAL_SET" in r, f"{key} goes with EVAL_SET; set both or none")
    if "EVAL_SET" not in r:
        return
    math = r["SCHEMA"] == "openmath"
    demand("EVAL_ENGINE" in r, "EVAL_SET needs EVAL_ENGINE, what generates the answers; add it")
    vllm = r["EVAL_ENGINE"] == "vllm"
    demand(("EVAL_TP" in r) == vllm, "EVAL_TP goes with EVAL_ENGINE=vllm; set both or none")
    for key in ("EVAL_PROTOCOL", "EVAL_MODE"):
        demand((key in r) == math, f"{key} goes with EVAL_SET and SCHEMA=openmath; set both or none")
    demand(math or "EVAL_MAX_TOKENS" in r, "EVAL_SET without EVAL_PROTOCOL needs EVAL_MAX_TOKENS; add it")
    demand(
        not math or "EVAL_TEMPERATURE" not in r,
        "EVAL_PROTOCOL has a temperature; leave out EVAL_TEMPERATURE",
    )
    demand(("EVAL_TOP_P" in r) == ("EVAL_TEMPERATURE" in r), "EVAL_TOP_P goes with EVAL_TEMPERATURE; set both or none")
    demand(
        math or not any(samples for _, samples in r["EVAL_SET"]),
        f"EVAL_SET={r['text']['EVAL_SET']}: several samples need EVAL_PROTOCOL; leave out the number",
    )
    modes = r["EVAL_MODE"] if math else ()
    demand(
        r["CHAT"] == "chatml" or modes in ((), ("cot",)),
        f"EVAL_MODE={','.join(modes)} is rendered as ChatML, not CHAT={r['CHAT']}; set EVAL_MODE=cot",
    )
    if "genselect" in modes:
        demand(len(modes) > 1, "EVAL_MODE=genselect selects among solutions by cot or tir; name one of them, too")
        demand(
            all(samples > 1 for _, samples in r["EVAL_SET"]),
            f"EVAL_SET={r['text']['EVAL_SET']}: genselect compares several samples; write name:4 for four",
        )


def check_epochs(recipe: Recipe, rows: int) -> None:
    """Raise Failure where MAX_EPOCHS over `rows` rows end before STEPS: AVERAGE_STEPS would never be saved."""
    batch, epochs, steps = recipe["GLOBAL_BATCH"], recipe["MAX_EPOCHS"], recipe["STEPS"]
    most = rows // batch * epochs  # an epoch ends with its last whole batch (v0.7.0 nemo_rl/algorithms/sft.py:160)
    if most < steps:
        raise Failure(
            f"MAX_EPOCHS={epochs} over {rows:,} rows end after {most:,} steps, before STEPS={steps:,}; "
            "change one in the recipe, or prepare more data"
        )
