"""Which stages a run has, and with which of them it ends: read by submit.sh, status, results, eval and plan."""

from sft.recipe.engines import backend_of, engine_of
from sft.recipe.keys import Recipe


def ending(recipe: Recipe) -> str:
    """The stage that makes the model that the run ends with: average, or convert where one step is all there is.

    OpenMathReasoning's schema averages even a single step: its published chain does.
    """
    single = recipe["SCHEMA"] != "openmath" and len(recipe["AVERAGE_STEPS"]) == 1
    return "convert" if single else "average"


def stages(recipe: Recipe) -> list[str]:
    """The stages of `make train`, in their order. Without an EVAL_SET there is nothing to evaluate."""
    cached = engine_of(recipe).rl and backend_of(recipe) == "megatron"
    return [
        *(["cache"] if cached else []),
        *(["train", "convert"] if ending(recipe) == "convert" else ["train", "convert", "average"]),
        *(["eval", "results"] if "EVAL_SET" in recipe else []),
    ]
