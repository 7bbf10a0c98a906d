"""What each engine does with a recipe: the one place that compares ENGINE and BACKEND.

The rules of recipes, the lengths of rows, plan, inspect and the stages ask engine_of(recipe). How an engine is driven
is in sft/engines/<engine>/, which sft/engines/registry.py finds by its name.
"""

from typing import Literal, NamedTuple

from sft.recipe.keys import Recipe

Backend = Literal["megatron", "fsdp"]


class Engine(NamedTuple):
    """What differs between engines. Each field is read somewhere; tests/recipe/test_recipe.py asks for that.

    rl: BACKEND, MAX_EPOCHS and VAL_* are its keys; it drives CP, PP and EP, and no adapters and no SHUFFLE=false.
    backend: what the others are built on, which have no BACKEND.
    no_cp: why CP is not driven, where there is more to say than that.
    tutorial: it drives VARIANT=published, the tutorial's own settings.
    bins: how PACKING=true packs: best_fit over the global batch, or in_order as rows stand in the file; None: not here.
    pads: each row is padded to a multiple of sequence_unit(), and unpacked rows to the longest of the global batch.
    cuts: a row that is too long is cut, where the others leave it without loss.
    row_below: a row of exactly SEQ_LEN tokens is too long, too.
    adds_end: the token that ends a turn is put behind each answer.
    logs_ahead: a step is logged before it is saved, so a run at its last save has all its steps logged.
    gathers_alone: weights are sharded and gathered even by a single process.
    fused_lora: adapters sit on fused projections. gradient: bytes of a gradient on Megatron.
    saves_twice: a checkpoint holds the weights sharded and consolidated. keeps_last: only the last one is kept.
    """

    rl: bool = False
    backend: Backend = "megatron"
    no_cp: str = ""
    tutorial: bool = False
    bins: Literal["best_fit", "in_order"] | None = None
    pads: bool = False
    cuts: bool = False
    row_below: bool = False
    adds_end: bool = False
    logs_ahead: bool = False
    gathers_alone: bool = False
    fused_lora: bool = False
    gradient: int = 2
    saves_twice: bool = False
    keeps_last: bool = False


ENGINES = {
    "automodel": Engine(
        backend="fsdp",
        # nemo-automodel 0.7.0 _transformers/capabilities.py:501
        no_cp="nemo-automodel splits sequences with Transformer Engine, which is not driven here and needs a GPU",
        bins="in_order",
        adds_end=True,
        logs_ahead=True,
        saves_twice=True,
    ),
    "nemo-rl": Engine(rl=True, bins="best_fit", pads=True, row_below=True, gathers_alone=True),
    "nemo2": Engine(tutorial=True, cuts=True, fused_lora=True, gradient=4, keeps_last=True),
}


def engine_of(recipe: Recipe) -> Engine:
    return ENGINES[recipe["ENGINE"]]


def backend_of(recipe: Recipe) -> Backend:
    """What the recipe's engine is built on: NeMo-RL's BACKEND, or the one that the engine has."""
    return recipe["BACKEND"] if engine_of(recipe).rl else engine_of(recipe).backend


def replicas(recipe: Recipe) -> int:
    """Data-parallel size: GPUs / (TP CP PP)."""
    gpus = recipe["NODES"] * recipe["GPUS_PER_NODE"]
    return gpus // (recipe["TP"] * recipe["CP"] * recipe["PP"])


def sequence_unit(recipe: Recipe) -> int:
    """Tokens of which NeMo-RL makes each row's length a multiple (make_sequence_length_divisible_by).

    A sequence is split in 2*CP chunks, and by sequence parallelism over TP (NeMo-RL v0.7.0
    nemo_rl/models/megatron/data.py:1126-1131). sequence_packing.sequence_length_round, for all its name, is read by
    dynamic batching only.
    """
    return 2 * recipe["CP"] * recipe["TP"]
