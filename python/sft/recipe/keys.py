"""The keys of a recipe: each with the check of its text, and the stages whose output depends on it."""

import re

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")

Recipe = dict[str, str]


def positive(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def count(text: str) -> bool:
    return text.isascii() and text.isdigit()


def number(text: str) -> bool:
    try:
        return 0 <= float(text) < float("inf")
    except ValueError:
        return False


def steps(text: str) -> bool:
    return all(positive(s) for s in text.split(","))


def text(value: str) -> bool:
    return bool(value)


def one_of(*choices: str):
    def check(value: str) -> bool:
        return value in choices

    check.__name__ = "one of " + ", ".join(choices)
    return check


SPLITS = ("cot", "tir", "genselect")


def names(value: str) -> bool:
    return all(NAME.fullmatch(n) for n in value.split(","))


names.__name__ = "names with commas between"


def share(value: str) -> bool:
    return number(value) and float(value) <= 1


def splits(value: str) -> bool:
    return all(s in SPLITS for s in value.split(",")) and len(set(value.split(","))) == len(value.split(","))


# The linear layers of a decoder block, by their names in Hugging Face's Llama and Qwen2.
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def targets(value: str) -> bool:
    return set(value.split(",")) <= set(LINEAR) and len(set(value.split(","))) == len(value.split(","))


targets.__name__ = "some of " + ",".join(LINEAR)
share.__name__ = "a number from 0 to 1"


# Every key there is. True: each recipe must have it.
KEYS = {
    "ROUNDS": (text, True),
    "ENGINE": (one_of("automodel", "nemo-rl", "nemo2"), True),
    "BACKEND": (one_of("megatron", "fsdp"), False),
    "DEVICE": (one_of("cpu", "gpu"), True),
    "DTYPE": (one_of("float32", "bfloat16"), True),
    "BASE_MODEL": (text, True),
    "BASE_SOURCE": (one_of("hub", "random"), True),
    "BASE_REVISION": (text, True),
    "RANDOM_LAYERS": (positive, False),
    "RANDOM_HIDDEN": (positive, False),
    "RANDOM_HEADS": (positive, False),
    "RANDOM_VOCAB": (positive, False),
    "ROPE_THETA": (number, False),
    "MAX_POSITIONS": (positive, False),
    "CHAT": (one_of("chatml", "llama3", "none"), True),
    "LR": (number, True),
    "MIN_LR": (number, True),
    "LR_SCHEDULE": (one_of("cosine", "constant"), True),
    "WARMUP": (count, True),
    "WARMUP_INIT": (number, True),
    "WEIGHT_DECAY": (number, True),
    "ADAM_BETA1": (number, True),
    "ADAM_BETA2": (number, True),
    "ADAM_EPS": (number, True),
    "CLIP_GRAD": (number, True),
    "SEED": (count, True),
    "TP": (positive, True),
    "CP": (positive, True),
    "PP": (positive, True),
    "EP": (positive, True),
    "ETP": (positive, False),
    "ACTIVATION_CHECKPOINTING": (one_of("true", "false"), False),
    "NODES": (positive, True),
    "GPUS_PER_NODE": (positive, True),
    "DATASET": (text, True),
    "DATASET_SOURCE": (one_of("hub", "generate", "prepared"), True),
    "DATASET_REVISION": (text, True),
    "DATA_ROUND": (text, False),
    "SCHEMA": (one_of("nemotron", "dolly", "squad"), False),
    "VARIANT": (one_of("corrected", "published"), False),
    "SPLITS": (splits, False),
    "FILTER_SPLITS": (lambda v: v == "none" or splits(v), False),
    "FILTER_SOURCES": (text, False),
    "FILTER_MAX_PASS_RATE": (number, False),
    "FILTER_MIN_TOKENS": (positive, False),
    "FILTER_TOKENIZER": (text, False),
    "FILTER_TOKENIZER_REVISION": (text, False),
    "CURATE_FILES": (names, False),
    "CURATE_USED_IN": (text, False),
    "CURATE_MAX_TOKENS": (positive, False),
    "CURATE_MAX_COMPLETION": (positive, False),
    "CURATE_ROWS": (count, False),
    "CURATE_TAKE": (one_of("random", "head"), False),
    "CURATE_CHUNK": (positive, False),
    "CURATE_VAL_ROWS": (count, False),
    "CURATE_DEDUPLICATE": (one_of("true", "false"), False),
    "CURATE_DECONTAMINATE": (names, False),
    "GENERATE_PROBLEMS": (positive, False),
    "SHUFFLE": (one_of("true", "false"), False),
    "LORA_RANK": (positive, False),
    "LORA_ALPHA": (positive, False),
    "LORA_DROPOUT": (share, False),
    "LORA_TARGETS": (targets, False),
    "START_FROM": (one_of("base", "round1"), True),
    "SEQ_LEN": (positive, True),
    "PACKING": (one_of("true", "false"), True),
    "GLOBAL_BATCH": (positive, True),
    "MICRO_BATCH": (positive, True),
    "STEPS": (positive, True),
    "MAX_EPOCHS": (positive, False),
    "SAVE_EVERY": (positive, True),
    "AVERAGE_STEPS": (steps, True),
    "VAL_DATASET": (text, False),
    "VAL_EVERY": (positive, False),
    "VAL_BATCHES": (positive, False),
    "EVAL_SET": (names, False),
    "EVAL_MAX_TOKENS": (positive, False),
    "EVAL_TEMPERATURE": (number, False),
    "EVAL_TOP_P": (share, False),
}
KEYS["FILTER_SPLITS"][0].__name__ = "none or splits"

# The keys that decide what a stage makes. What is not named here can change without making it again.
STAGE_KEYS = {
    "data": {k for k in KEYS if k.startswith(("DATASET", "FILTER_", "CURATE_"))}
    | {"SCHEMA", "SPLITS", "GENERATE_PROBLEMS", "SEED"},
    "model": {k for k in KEYS if k.startswith(("BASE_", "RANDOM_"))} | {"ROPE_THETA", "MAX_POSITIONS", "SEED"},
}
STAGE_KEYS["train"] = {k for k in KEYS if not k.startswith("EVAL_")} - {"ROUNDS", "AVERAGE_STEPS", "DATA_ROUND"}
STAGE_KEYS["convert"] = STAGE_KEYS["train"]
STAGE_KEYS["average"] = STAGE_KEYS["train"] | {"AVERAGE_STEPS"}
STAGE_KEYS["eval"] = STAGE_KEYS["average"] | {k for k in KEYS if k.startswith("EVAL_")}
STAGE_KEYS["results"] = STAGE_KEYS["eval"]


def stage_keys(recipe: Recipe, stage: str) -> Recipe:
    """The part of the recipe that `stage` depends on."""
    keys = STAGE_KEYS[stage]
    if stage == "data" and "SCHEMA" in recipe:  # its rows are rendered for the model
        keys = keys | {"CHAT", "VARIANT"}
    return {k: v for k, v in recipe.items() if k in keys}
