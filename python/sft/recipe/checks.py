"""Whether the values of a recipe go together. Every rule is applied before anything is queued."""

from sft.lib.errors import Failure, usage
from sft.recipe.keys import KEYS, Recipe


def sequence_unit(r: Recipe) -> int:
    """Tokens of which a row's length is made a multiple with engine nemo-rl.

    A sequence is split in 2*CP chunks, and by sequence parallelism over TP (NeMo-RL v0.7.0
    nemo_rl/models/megatron/data.py:1126-1131).
    """
    return 2 * int(r["CP"]) * int(r["TP"])


def check(model: str, r: Recipe) -> None:
    """Refuse what cannot train, or would train something else than it says. Raises Failure (status 2)."""

    def demand(holds: bool, why: str) -> None:
        if not holds:
            usage(f"recipe {model}: {why}")

    for key, known in KEYS.items():
        if key not in r:
            demand(not known.required, f"{key} is missing; add it")
        else:
            demand(known.valid(r[key]), f"{key}={r[key]} is not valid; it must be {known.form}")

    rl = r["ENGINE"] == "nemo-rl"
    for key in ("BACKEND", "MAX_EPOCHS"):
        demand((key in r) == rl, f"{key} goes with ENGINE=nemo-rl; set both or none")
    demand(not rl or "ACTIVATION_CHECKPOINTING" in r, "ENGINE=nemo-rl needs ACTIVATION_CHECKPOINTING; add it")
    demand(r["ENGINE"] != "nemo2" or "VARIANT" in r, "ENGINE=nemo2 needs VARIANT; add it")
    lora = [k for k in KEYS if k.startswith("LORA_")]
    for key in lora:
        demand((key in r) == ("LORA_RANK" in r), f"{key} goes with the other LORA_ keys; set all or none")
    demand("LORA_RANK" not in r or not rl, "LoRA is not driven here with ENGINE=nemo-rl; remove the LORA_ keys")
    demand(r.get("SHUFFLE", "true") == "true" or not rl, "SHUFFLE=false is not driven with ENGINE=nemo-rl; remove it")
    nodes, per_node = int(r["NODES"]), int(r["GPUS_PER_NODE"])
    tp, cp, pp, ep, etp = (int(r.get(k, "1")) for k in ("TP", "CP", "PP", "EP", "ETP"))
    processes = nodes * per_node
    demand(processes % (tp * cp * pp) == 0, f"{processes} GPUs do not divide by TP*CP*PP={tp * cp * pp}; change NODES")
    # The experts' parallelism is laid over the same GPUs, independently of TP and CP.
    demand(("ETP" in r) == (ep > 1), "ETP goes with EP > 1; set both or none")
    demand(
        processes % (etp * ep * pp) == 0,
        f"{processes} GPUs do not divide by ETP*EP*PP={etp * ep * pp}; change NODES or EP",
    )
    dp = processes // (tp * cp * pp)
    batch = int(r["GLOBAL_BATCH"])
    # NeMo-RL deals a global batch out to the replicas (v0.7.0 nemo_rl/distributed/batched_data_dict.py:399).
    demand(
        batch % (dp * int(r["MICRO_BATCH"])) == 0,
        f"GLOBAL_BATCH={batch} does not divide by {dp} replicas of MICRO_BATCH={r['MICRO_BATCH']}; change one",
    )
    unit = sequence_unit(r)
    demand(
        not rl or int(r["SEQ_LEN"]) % unit == 0, f"SEQ_LEN={r['SEQ_LEN']} does not divide by 2*CP*TP={unit}; change it"
    )
    backend = r.get("BACKEND")
    demand(
        backend != "megatron" or cp == 1 or r["PACKING"] == "true",
        "CP > 1 needs PACKING=true on Megatron; set it",  # NeMo-RL v0.7.0 nemo_rl/models/megatron/setup.py:629-636
    )
    demand(
        backend != "fsdp" or cp == 1 or r["PACKING"] == "false",
        "BACKEND=fsdp cannot pack with CP > 1; set PACKING=false or BACKEND=megatron",  # automodel/setup.py:384
    )
    demand(
        backend != "fsdp" or (pp, ep) == (1, 1),
        "BACKEND=fsdp is driven here without PP and EP; set PP=1 EP=1 or BACKEND=megatron",
    )
    demand(  # nemo-automodel 0.7.0 _transformers/capabilities.py:501
        r["ENGINE"] != "automodel" or cp == 1,
        f"CP={cp}: nemo-automodel splits sequences with Transformer Engine, which is not driven here and needs a GPU; "
        "set CP=1",
    )
    demand(
        rl or (cp, pp, ep) == (1, 1, 1),
        f"engine {r['ENGINE']} is driven here without CP, PP and EP; set CP=1 PP=1 EP=1",
    )
    demand(
        r["PACKING"] == "false" or rl or (r["ENGINE"] == "automodel" and r["MICRO_BATCH"] == "1" and tp == 1),
        f"PACKING=true with ENGINE={r['ENGINE']} needs automodel with MICRO_BATCH=1 and TP=1; change one",
    )
    for key in ("VAL_DATASET", "VAL_EVERY", "VAL_BATCHES"):
        demand((key in r) == ("VAL_DATASET" in r), f"{key} goes with VAL_DATASET; set both or none")
        demand(rl or key not in r, f"{key} needs ENGINE=nemo-rl, the one that validates here; remove it")
    # What is rendered here without the model's own template is ChatML.
    schema = r.get("SCHEMA", "openmath")
    demand(
        r["CHAT"] == "chatml" or schema != "openmath" or (r["DATASET_SOURCE"] == "prepared" and "EVAL_SET" not in r),
        f"CHAT={r['CHAT']} needs rows rendered with that template, and none of our prompts; "
        "set DATASET_SOURCE=prepared, without EVAL_SET",
    )
    for key in ("SPLITS", "FILTER_SPLITS"):
        demand((key in r) == (schema == "openmath"), f"{key} goes with OpenMathReasoning's schema; remove it or SCHEMA")
    demand(("VARIANT" in r) == ("SCHEMA" in r), "VARIANT goes with SCHEMA; set both or none")
    demand(
        r.get("VARIANT") != "published" or r["ENGINE"] == "nemo2",
        f"VARIANT=published is what NeMo 2.0 makes of it, not {r['ENGINE']}; set ENGINE=nemo2",
    )
    for key in (k for k in KEYS if k.startswith("CURATE_")):
        demand((key in r) == (schema == "nemotron"), f"{key} goes with SCHEMA=nemotron; set all of them or none")
    if schema == "nemotron":
        demand(r["CHAT"] == "llama3", "SCHEMA=nemotron is rendered with the model's template; set CHAT=llama3")
        longest, fits = int(r["CURATE_MAX_TOKENS"]), int(r["SEQ_LEN"])
        demand(
            longest <= fits or r["VARIANT"] == "published",
            f"CURATE_MAX_TOKENS={longest} lets in rows longer than SEQ_LEN={fits}, which would be cut; lower it",
        )
    if schema in ("dolly", "squad"):
        demand(r["CHAT"] == "none", f"SCHEMA={schema} has no chat template; set CHAT=none")
    total, every = int(r["STEPS"]), int(r["SAVE_EVERY"])
    average = [int(s) for s in r["AVERAGE_STEPS"].split(",")]
    demand(average == sorted(set(average)), f"AVERAGE_STEPS={r['AVERAGE_STEPS']} must ascend without repeats; sort it")
    lost = [s for s in average if s > total or (s % every and s != total)]
    demand(
        not lost,
        f"step {(lost or [0])[0]} of AVERAGE_STEPS is never saved with SAVE_EVERY={every}, STEPS={total}; change one",
    )
    demand("LORA_RANK" not in r or len(average) == 1, f"adapters are not averaged; set AVERAGE_STEPS={max(average)}")
    demand(float(r["MIN_LR"]) <= float(r["LR"]), f"MIN_LR={r['MIN_LR']} is above LR={r['LR']}; swap them")
    demand(float(r["WARMUP_INIT"]) <= float(r["LR"]), f"WARMUP_INIT={r['WARMUP_INIT']} is above LR={r['LR']}; lower it")
    demand(int(r["WARMUP"]) < total, f"WARMUP={r['WARMUP']} is not shorter than STEPS={total}; shorten it")
    demand(("ROPE_THETA" in r) == ("MAX_POSITIONS" in r), "ROPE_THETA and MAX_POSITIONS go together; set both or none")
    math_base = "Math" in r["BASE_MODEL"] or r["BASE_SOURCE"] == "random"
    demand(
        "ROPE_THETA" not in r or math_base,
        f"{r['BASE_MODEL']} is not a Math base, whose RoPE upstream leaves alone; remove ROPE_THETA and MAX_POSITIONS",
    )
    if "MAX_POSITIONS" in r:
        demand(
            int(r["SEQ_LEN"]) <= int(r["MAX_POSITIONS"]),
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
        filtered = r.get("FILTER_SPLITS", "none") != "none"
        demand((key in r) == filtered, f"{key} goes with FILTER_SPLITS; set both or none")
    if r["BASE_SOURCE"] == "random":
        demand(
            int(r["RANDOM_HIDDEN"]) % (2 * int(r["RANDOM_HEADS"])) == 0,
            "RANDOM_HIDDEN must divide by twice RANDOM_HEADS (RoPE needs an even head size); change one",
        )
    demand(("EVAL_SET" in r) == ("EVAL_MAX_TOKENS" in r), "EVAL_SET and EVAL_MAX_TOKENS go together; set both or none")
    for key in ("EVAL_TEMPERATURE", "EVAL_TOP_P"):
        demand((key in r) == ("EVAL_TEMPERATURE" in r), f"{key} goes with EVAL_TEMPERATURE; set both or none")
        demand(key not in r or "EVAL_SET" in r, f"{key} goes with EVAL_SET; set both or none")


def check_epochs(recipe: Recipe, rows: int) -> None:
    """Raise Failure where MAX_EPOCHS over `rows` rows end before STEPS: AVERAGE_STEPS would never be saved."""
    batch, epochs, steps = (int(recipe[k]) for k in ("GLOBAL_BATCH", "MAX_EPOCHS", "STEPS"))
    most = rows // batch * epochs  # an epoch ends with its last whole batch (v0.7.0 nemo_rl/algorithms/sft.py:160)
    if most < steps:
        raise Failure(
            f"MAX_EPOCHS={epochs} over {rows:,} rows end after {most:,} steps, before STEPS={steps:,}; "
            "change one in the recipe, or prepare more data"
        )
