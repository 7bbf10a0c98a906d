"""The keys of a recipe: each with its type, its meaning, and the stages whose output depends on it."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, get_args, get_origin, get_type_hints

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
SPLITS = ("cot", "tir", "genselect")
# The linear layers of a decoder block, by their names in Hugging Face's Llama and Qwen2.
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Form(NamedTuple):
    """words: the values there may be, for people. read: a text as its value; ValueError for another text."""

    words: str
    read: Callable[[str], Any]


class Key(NamedTuple):
    """required: each recipe must have it."""

    required: bool
    meaning: str


def count(text: str) -> bool:
    """Whether a text is a number from 0 up."""
    return text.isascii() and text.isdigit()


def positive(text: str) -> bool:
    """Whether a text is a number from 1 up."""
    return count(text) and int(text) > 0


def demand(holds: bool) -> None:
    if not holds:
        raise ValueError


def read_count(text: str) -> int:
    demand(count(text))
    return int(text)


def read_positive(text: str) -> int:
    demand(positive(text))
    return int(text)


def read_number(text: str) -> float:
    demand(0 <= float(text) < float("inf"))
    return float(text)


def read_share(text: str) -> float:
    demand(0 <= float(text) <= 1)
    return float(text)


def read_text(text: str) -> str:
    demand(bool(text))
    return text


def read_flag(text: str) -> bool:
    demand(text in ("true", "false"))
    return text == "true"


def read_steps(text: str) -> tuple[int, ...]:
    return tuple(read_positive(step) for step in text.split(","))


def read_names(text: str) -> tuple[str, ...]:
    demand(all(NAME.fullmatch(name) for name in text.split(",")))
    return tuple(text.split(","))


def read_sets(text: str) -> tuple[tuple[str, int], ...]:
    """name, or name:k for k samples of each problem; 0 where no number is said, which is one greedy answer."""
    found = []
    for word in text.split(","):
        name, colon, samples = word.partition(":")
        demand(bool(NAME.fullmatch(name)))
        found.append((name, read_positive(samples) if colon else 0))
    demand(len(dict(found)) == len(found))
    return tuple(found)


def some_of(choices: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        found = text.split(",")
        demand(set(found) <= set(choices) and len(set(found)) == len(found))
        return tuple(found)

    return read


def read_filtered(text: str) -> tuple[str, ...]:
    return () if text == "none" else some_of(SPLITS)(text)


def one_of(choices: tuple[str, ...]) -> Form:
    def read(text: str) -> str:
        demand(text in choices)
        return text

    return Form("one of " + ", ".join(choices), read)


Positive = Annotated[int, Form("a number from 1 up", read_positive)]
Count = Annotated[int, Form("a number from 0 up", read_count)]
Number = Annotated[float, Form("a number", read_number)]
Share = Annotated[float, Form("a number from 0 to 1", read_share)]
Text = Annotated[str, Form("text", read_text)]
Flag = Annotated[bool, Form("one of true, false", read_flag)]
Steps = Annotated[tuple[int, ...], Form("steps with commas between", read_steps)]
Names = Annotated[tuple[str, ...], Form("names with commas between", read_names)]
Sets = Annotated[tuple[tuple[str, int], ...], Form("names with commas between, name:k for k samples", read_sets)]
Splits = Annotated[tuple[str, ...], Form("some of " + ",".join(SPLITS), some_of(SPLITS))]
SomeSplits = Annotated[tuple[str, ...], Form("none, or some of " + ",".join(SPLITS), read_filtered)]
Targets = Annotated[tuple[str, ...], Form("some of " + ",".join(LINEAR), some_of(LINEAR))]


class Recipe(TypedDict, total=False):
    """Every key there is, with its value's type; docs/recipes.md has this table, printed by python/tools/recipe.py.

    text: the keys as they stand in the files, which DONE records and hashes.
    """

    text: dict[str, str]
    ROUNDS: Annotated[Names, Key(True, "the rounds that the model has, each a file round<N>.env")]
    ENGINE: Annotated[
        Literal["automodel", "nemo-rl", "nemo2"], Key(True, "what trains: nemo-automodel, NeMo-RL or NeMo 2.0")
    ]
    BACKEND: Annotated[Literal["megatron", "fsdp"], Key(False, "of NeMo-RL: Megatron, or FSDP2 (DTensor)")]
    DEVICE: Annotated[Literal["cpu", "gpu"], Key(True, "cpu is for the toy recipes")]
    DTYPE: Annotated[Literal["float32", "bfloat16"], Key(True, "in which the model computes")]
    BASE_MODEL: Annotated[Text, Key(True, "the base: a repository of the hub, or the absolute path of a folder")]
    BASE_SOURCE: Annotated[Literal["hub", "random"], Key(True, "random: a small model is made, for the demos")]
    BASE_REVISION: Annotated[Text, Key(True, "commit, tag or branch; what it resolves to is recorded")]
    RANDOM_LAYERS: Annotated[Positive, Key(False, "layers of a random base")]
    RANDOM_HIDDEN: Annotated[Positive, Key(False, "its width")]
    RANDOM_HEADS: Annotated[Positive, Key(False, "its attention heads")]
    RANDOM_VOCAB: Annotated[Positive, Key(False, "the size of its vocabulary")]
    ROPE_THETA: Annotated[Number, Key(False, "RoPE's base is patched to this value")]
    MAX_POSITIONS: Annotated[Positive, Key(False, "and the context to so many positions")]
    CHAT: Annotated[Literal["chatml", "llama3", "none"], Key(True, "what ends a turn: <|im_end|>, <|eot_id|>, the EOS")]
    LR: Annotated[Number, Key(True, "highest learning rate")]
    MIN_LR: Annotated[Number, Key(True, "learning rate at the end")]
    LR_SCHEDULE: Annotated[Literal["cosine", "constant"], Key(True, "how it falls from LR to MIN_LR")]
    WARMUP: Annotated[Count, Key(True, "steps in which it rises from WARMUP_INIT to LR")]
    WARMUP_INIT: Annotated[Number, Key(True, "learning rate of the first step")]
    WEIGHT_DECAY: Annotated[Number, Key(True, "AdamW's decay")]
    ADAM_BETA1: Annotated[Number, Key(True, "AdamW's first beta")]
    ADAM_BETA2: Annotated[Number, Key(True, "AdamW's second beta")]
    ADAM_EPS: Annotated[Number, Key(True, "AdamW's epsilon")]
    CLIP_GRAD: Annotated[Number, Key(True, "the gradient's norm is clipped to this; 0: it is not")]
    SEED: Annotated[Count, Key(True, "of the shuffle, of random weights, of sampling")]
    TP: Annotated[Positive, Key(True, "tensor parallel size")]
    CP: Annotated[Positive, Key(True, "context parallel size")]
    PP: Annotated[Positive, Key(True, "pipeline parallel size")]
    EP: Annotated[Positive, Key(True, "expert parallel size")]
    ETP: Annotated[Positive, Key(True, "tensor parallel size of one expert")]
    ACTIVATION_CHECKPOINTING: Annotated[Flag, Key(True, "compute activations twice: less memory, more time")]
    NODES: Annotated[Positive, Key(True, "nodes of a training job")]
    GPUS_PER_NODE: Annotated[Positive, Key(True, "GPUs of each, or processes on a CPU")]
    DATASET: Annotated[Text, Key(True, "the data set: a repository of the hub, or the NAME of make sft-data")]
    DATASET_SOURCE: Annotated[
        Literal["hub", "generate", "prepared"], Key(True, "prepared: by make sft-data; generate: for the demos")
    ]
    DATASET_REVISION: Annotated[Text, Key(True, "commit, tag or branch; none for data that is not of the hub")]
    DATA_ROUND: Annotated[Text, Key(False, "train on the data of this round")]
    SCHEMA: Annotated[
        Literal["openmath", "nemotron", "dolly", "squad"], Key(True, "the form that the data set has its rows in")
    ]
    VARIANT: Annotated[
        Literal["corrected", "published"], Key(False, "corrected, or with what goes wrong in the tutorial")
    ]
    SPLITS: Annotated[Splits, Key(False, "the splits that are trained on")]
    FILTER_SPLITS: Annotated[SomeSplits, Key(False, "those whose rows are filtered")]
    FILTER_SOURCES: Annotated[Names, Key(False, "keep problems of these sources")]
    FILTER_MAX_PASS_RATE: Annotated[Number, Key(False, "keep problems that were solved at most so often")]
    FILTER_MIN_TOKENS: Annotated[Positive, Key(False, "keep solutions of at least so many tokens")]
    FILTER_TOKENIZER: Annotated[Text, Key(False, "which tokenizer counts them")]
    FILTER_TOKENIZER_REVISION: Annotated[Text, Key(False, "its commit")]
    CURATE_FILES: Annotated[Names, Key(False, "files of the data set, without their extension")]
    CURATE_USED_IN: Annotated[Text, Key(False, "keep rows used in the training of this model")]
    CURATE_MAX_TOKENS: Annotated[Positive, Key(False, "longest row")]
    CURATE_MAX_COMPLETION: Annotated[Positive, Key(False, "longest answer, in tokens")]
    CURATE_ROWS: Annotated[Count, Key(False, "rows to choose; 0: all")]
    CURATE_TAKE: Annotated[Literal["random", "head"], Key(False, "a random sample, or the shortest rows")]
    CURATE_CHUNK: Annotated[Positive, Key(False, "rows with reasoning on, then off, and so on")]
    CURATE_VAL_ROWS: Annotated[Count, Key(False, "rows held out")]
    CURATE_DEDUPLICATE: Annotated[Flag, Key(False, "drop copies")]
    CURATE_DECONTAMINATE: Annotated[Names, Key(False, "drop rows that are in these evaluation sets")]
    GENERATE_PROBLEMS: Annotated[Positive, Key(False, "problems to generate")]
    SHUFFLE: Annotated[Flag, Key(True, "draw rows in random order, or take them as they stand in the file")]
    LORA_RANK: Annotated[Positive, Key(False, "train adapters of this rank; without it all weights")]
    LORA_ALPHA: Annotated[Positive, Key(False, "their alpha")]
    LORA_DROPOUT: Annotated[Share, Key(False, "their dropout")]
    LORA_TARGETS: Annotated[Targets, Key(False, "the linear layers that get one")]
    START_FROM: Annotated[Literal["base", "round1"], Key(True, "the base, or the model that round 1 ended with")]
    SEQ_LEN: Annotated[Positive, Key(True, "tokens of a sequence; longer rows carry no loss")]
    PACKING: Annotated[Flag, Key(True, "several rows share a sequence")]
    GLOBAL_BATCH: Annotated[Positive, Key(True, "rows of a step")]
    MICRO_BATCH: Annotated[Positive, Key(True, "rows of one forward pass of a replica")]
    STEPS: Annotated[Positive, Key(True, "the last step")]
    MAX_EPOCHS: Annotated[Positive, Key(False, "data that ends before STEPS in so many epochs is refused")]
    SAVE_EVERY: Annotated[Positive, Key(True, "a checkpoint every so many steps, and at the end")]
    AVERAGE_STEPS: Annotated[Steps, Key(True, "the steps that are converted and averaged")]
    VAL_DATASET: Annotated[Text, Key(False, "a set for the validation loss, made by make sft-data")]
    VAL_EVERY: Annotated[Positive, Key(False, "validate every so many steps")]
    VAL_BATCHES: Annotated[Positive, Key(False, "on so many batches")]
    EVAL_SET: Annotated[
        Sets, Key(False, "what make eval scores, name:k with k samples; without it the chain ends before eval")
    ]
    EVAL_ENGINE: Annotated[Literal["transformers", "vllm"], Key(False, "what generates the answers")]
    EVAL_TP: Annotated[Positive, Key(False, "GPUs that share the model then, with vllm")]
    EVAL_PROTOCOL: Annotated[
        Literal["published", "today", "demo"],
        Key(False, "how it is measured: sft/eval/protocols/"),
    ]
    EVAL_MODE: Annotated[Splits, Key(False, "by chain of thought, with code, by selecting among solutions")]
    EVAL_MAX_TOKENS: Annotated[Positive, Key(False, "longest answer, in place of the protocol's")]
    EVAL_TEMPERATURE: Annotated[Number, Key(False, "sample with this temperature, without a protocol; else greedily")]
    EVAL_TOP_P: Annotated[Share, Key(False, "and from this share of the probability")]


def form_of(hint: Any) -> Form:
    """The form of a key's values: that of its type, or its choices."""
    inner, *notes = get_args(hint)
    if get_origin(inner) is Literal:
        return one_of(get_args(inner))
    return next(note for note in notes if isinstance(note, Form))


HINTS = {name: hint for name, hint in get_type_hints(Recipe, include_extras=True).items() if name != "text"}
FORMS = {name: form_of(hint) for name, hint in HINTS.items()}
KEYS = {name: next(note for note in get_args(hint) if isinstance(note, Key)) for name, hint in HINTS.items()}

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


def stage_keys(recipe: Recipe, stage: str) -> dict[str, str]:
    """The texts of the keys that `stage` depends on."""
    keys = STAGE_KEYS[stage]
    if stage == "data" and recipe["SCHEMA"] != "openmath":  # its rows are rendered for the model
        keys = keys | {"CHAT", "VARIANT"}
    return {k: v for k, v in recipe["text"].items() if k in keys}


def random_sizes(recipe: Recipe) -> tuple[int, int, int, int]:
    """(layers, hidden, heads, vocabulary) of a random base."""
    return recipe["RANDOM_LAYERS"], recipe["RANDOM_HIDDEN"], recipe["RANDOM_HEADS"], recipe["RANDOM_VOCAB"]
