"""RoPE of a base model: read, patched in config.json, and read back as transformers loads it."""

from pathlib import Path
from typing import Any

from sft.lib.errors import Failure
from sft.lib.files import read_json, write_json
from sft.lib.progress import log
from sft.recipe.keys import Recipe

# What Qwen2.5-Math ships with, and the only values the patch accepts to replace
# (NeMo-Skills 8b18f39 docs/releases/openmathreasoning/training.md:80-81).
PUBLISHED_THETA, PUBLISHED_POSITIONS = 10000.0, 4096


# --- RoPE --------------------------------------------------------------------------------------------------------


def rope_of(config: dict[str, Any], where: Path, scaled: bool = False) -> tuple[float, int]:
    """(theta, positions) of a config, in the flat form or in transformers 5's rope_parameters.

    scaled: accept RoPE that is scaled in some other way as well, as Llama 3.1's is. Raises Failure when neither or two
    different ones are there, or RoPE is scaled and must not be.
    """
    nested = config.get("rope_parameters") or {}
    kind = nested.get("rope_type", "default")
    if not scaled and (kind != "default" or config.get("rope_scaling")):
        raise Failure(f"{where}: RoPE is scaled already (rope_type {kind}); fetch the published config again")
    thetas = {float(c["rope_theta"]) for c in (config, nested) if "rope_theta" in c}
    if len(thetas) != 1 or "max_position_embeddings" not in config:
        raise Failure(f"{where}: found rope_theta {sorted(thetas)}, not just one; fetch the published config again")
    return thetas.pop(), int(config["max_position_embeddings"])


def patch_rope(path: Path, theta: float, positions: int) -> bool:
    """Widen RoPE in a config.json from the published values; False when it is so already.

    Raises Failure and leaves the file alone when its values are neither the published nor the wanted pair.
    """
    config = read_json(path)
    found = rope_of(config, path)
    if found == (theta, positions):
        return False
    if found != (PUBLISHED_THETA, PUBLISHED_POSITIONS):
        raise Failure(
            f"{path}: rope_theta {found[0]:g} with {found[1]} positions is neither the published "
            f"({PUBLISHED_THETA:g}, {PUBLISHED_POSITIONS}) nor the patched pair; fetch the published config again"
        )
    for part in (config, config.get("rope_parameters") or {}):
        if "rope_theta" in part:
            part["rope_theta"] = theta
    config["max_position_embeddings"] = positions
    write_json(path, config)
    if rope_of(read_json(path), path) != (theta, positions):
        raise Failure(f"{path}: reads back differently after the patch; check the file system")
    return True


def loaded_rope(folder: Path) -> tuple[float, int]:
    """(theta, positions) as transformers understands a model folder: what training will really use."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    return float(config.rope_parameters["rope_theta"]), int(config.max_position_embeddings)


def check_rope(folder: Path, recipe: Recipe) -> None:
    """Compare what transformers loads with the recipe. Raises Failure when they differ."""
    found = loaded_rope(folder)
    if "ROPE_THETA" in recipe and found != (recipe["ROPE_THETA"], recipe["MAX_POSITIONS"]):
        raise Failure(f"{folder} loads with RoPE {found}, not the recipe's; remove it and run make model again")
    log(f"model: RoPE theta {found[0]:g}, {found[1]} positions, as transformers loads it")
