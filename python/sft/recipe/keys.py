"""The keys of a recipe: each with the check of its text, and the stages whose output depends on it."""

import re
from collections.abc import Callable
from typing import NamedTuple

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


boolean = one_of("true", "false")
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


class Key(NamedTuple):
    """valid: whether a text is a value; its name, or `form`, says of which kind. required: each recipe must have it."""

    valid: Callable[[str], bool]
    required: bool
    meaning: str

    @property
    def form(self) -> str:
        """The values it may have, in words."""
        name = self.valid.__name__
        return FORMS.get(name, name)


# The checks' names, for people.
FORMS = {
    "positive": "a number from 1 up",
    "count": "a number from 0 up",
    "number": "a number",
    "steps": "steps with commas between",
    "text": "text",
    "splits": "some of " + ",".join(SPLITS),
}

# Every key there is; docs/recipes.md has this table, printed by python/tools/recipe.py --table.
KEYS = {
    "ROUNDS": Key(text, True, "the rounds that the model has, each a file round<N>.env"),
    "ENGINE": Key(one_of("automodel", "nemo-rl", "nemo2"), True, "what trains: nemo-automodel, NeMo-RL or NeMo 2.0"),
    "BACKEND": Key(one_of("megatron", "fsdp"), False, "of NeMo-RL: Megatron, or FSDP2 (DTensor)"),
    "DEVICE": Key(one_of("cpu", "gpu"), True, "cpu is for the toy recipes"),
    "DTYPE": Key(one_of("float32", "bfloat16"), True, "in which the model computes"),
    "BASE_MODEL": Key(text, True, "the base: a repository of the hub, or the absolute path of a folder"),
    "BASE_SOURCE": Key(one_of("hub", "random"), True, "random: a small model is made, for the demos"),
    "BASE_REVISION": Key(text, True, "commit, tag or branch; what it resolves to is recorded"),
    "RANDOM_LAYERS": Key(positive, False, "layers of a random base"),
    "RANDOM_HIDDEN": Key(positive, False, "its width"),
    "RANDOM_HEADS": Key(positive, False, "its attention heads"),
    "RANDOM_VOCAB": Key(positive, False, "the size of its vocabulary"),
    "ROPE_THETA": Key(number, False, "RoPE's base is patched to this value"),
    "MAX_POSITIONS": Key(positive, False, "and the context to so many positions"),
    "CHAT": Key(
        one_of("chatml", "llama3", "none"),
        True,
        "what ends a turn: <|im_end|>, <|eot_id|>, the EOS",
    ),
    "LR": Key(number, True, "highest learning rate"),
    "MIN_LR": Key(number, True, "learning rate at the end"),
    "LR_SCHEDULE": Key(one_of("cosine", "constant"), True, "how it falls from LR to MIN_LR"),
    "WARMUP": Key(count, True, "steps in which it rises from WARMUP_INIT to LR"),
    "WARMUP_INIT": Key(number, True, "learning rate of the first step"),
    "WEIGHT_DECAY": Key(number, True, "AdamW's decay"),
    "ADAM_BETA1": Key(number, True, "AdamW's first beta"),
    "ADAM_BETA2": Key(number, True, "AdamW's second beta"),
    "ADAM_EPS": Key(number, True, "AdamW's epsilon"),
    "CLIP_GRAD": Key(number, True, "the gradient's norm is clipped to this; 0: it is not"),
    "SEED": Key(count, True, "of the shuffle, of random weights, of sampling"),
    "TP": Key(positive, True, "tensor parallel size"),
    "CP": Key(positive, True, "context parallel size"),
    "PP": Key(positive, True, "pipeline parallel size"),
    "EP": Key(positive, True, "expert parallel size"),
    "ETP": Key(positive, False, "tensor parallel size of one expert"),
    "ACTIVATION_CHECKPOINTING": Key(boolean, False, "compute activations twice: less memory, more time"),
    "NODES": Key(positive, True, "nodes of a training job"),
    "GPUS_PER_NODE": Key(positive, True, "GPUs of each, or processes on a CPU"),
    "DATASET": Key(text, True, "the data set: a repository of the hub, or the NAME of make sft-data"),
    "DATASET_SOURCE": Key(
        one_of("hub", "generate", "prepared"), True, "prepared: by make sft-data; generate: for the demos"
    ),
    "DATASET_REVISION": Key(text, True, "commit, tag or branch; none for data that is not of the hub"),
    "DATA_ROUND": Key(text, False, "train on the data of this round"),
    "SCHEMA": Key(
        one_of("nemotron", "dolly", "squad"),
        False,
        "whose rows; without it OpenMathReasoning's",
    ),
    "VARIANT": Key(one_of("corrected", "published"), False, "corrected, or with what goes wrong in the tutorial"),
    "SPLITS": Key(splits, False, "the splits that are trained on"),
    "FILTER_SPLITS": Key(lambda v: v == "none" or splits(v), False, "those whose rows are filtered"),
    "FILTER_SOURCES": Key(text, False, "keep problems of these sources"),
    "FILTER_MAX_PASS_RATE": Key(number, False, "keep problems that were solved at most so often"),
    "FILTER_MIN_TOKENS": Key(positive, False, "keep solutions of at least so many tokens"),
    "FILTER_TOKENIZER": Key(text, False, "which tokenizer counts them"),
    "FILTER_TOKENIZER_REVISION": Key(text, False, "its commit"),
    "CURATE_FILES": Key(names, False, "files of the data set, without their extension"),
    "CURATE_USED_IN": Key(text, False, "keep rows used in the training of this model"),
    "CURATE_MAX_TOKENS": Key(positive, False, "longest row"),
    "CURATE_MAX_COMPLETION": Key(positive, False, "longest answer, in tokens"),
    "CURATE_ROWS": Key(count, False, "rows to choose; 0: all"),
    "CURATE_TAKE": Key(one_of("random", "head"), False, "a random sample, or the shortest rows"),
    "CURATE_CHUNK": Key(positive, False, "rows with reasoning on, then off, and so on"),
    "CURATE_VAL_ROWS": Key(count, False, "rows held out"),
    "CURATE_DEDUPLICATE": Key(boolean, False, "drop copies"),
    "CURATE_DECONTAMINATE": Key(names, False, "drop rows that are in these evaluation sets"),
    "GENERATE_PROBLEMS": Key(positive, False, "problems to generate"),
    "SHUFFLE": Key(boolean, False, "draw rows in random order, or take them as they stand in the file"),
    "LORA_RANK": Key(positive, False, "train adapters of this rank; without it all weights"),
    "LORA_ALPHA": Key(positive, False, "their alpha"),
    "LORA_DROPOUT": Key(share, False, "their dropout"),
    "LORA_TARGETS": Key(targets, False, "the linear layers that get one"),
    "START_FROM": Key(one_of("base", "round1"), True, "the base, or the model that round 1 ended with"),
    "SEQ_LEN": Key(positive, True, "tokens of a sequence; longer rows carry no loss"),
    "PACKING": Key(boolean, True, "several rows share a sequence"),
    "GLOBAL_BATCH": Key(positive, True, "rows of a step"),
    "MICRO_BATCH": Key(positive, True, "rows of one forward pass of a replica"),
    "STEPS": Key(positive, True, "the last step"),
    "MAX_EPOCHS": Key(positive, False, "data that ends before STEPS in so many epochs is refused"),
    "SAVE_EVERY": Key(positive, True, "a checkpoint every so many steps, and at the end"),
    "AVERAGE_STEPS": Key(steps, True, "the steps that are converted and averaged"),
    "VAL_DATASET": Key(text, False, "a set for the validation loss, made by make sft-data"),
    "VAL_EVERY": Key(positive, False, "validate every so many steps"),
    "VAL_BATCHES": Key(positive, False, "on so many batches"),
    "EVAL_SET": Key(names, False, "what make eval scores; without it the chain ends before eval"),
    "EVAL_MAX_TOKENS": Key(positive, False, "longest answer"),
    "EVAL_TEMPERATURE": Key(number, False, "sample with this temperature; without it answers are greedy"),
    "EVAL_TOP_P": Key(share, False, "and from this share of the probability"),
}
KEYS["FILTER_SPLITS"].valid.__name__ = "none, or some of " + ",".join(SPLITS)

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
