"""Opens an engine by its name."""

from pathlib import Path

from sft.eval.engines.base import Engine
from sft.lib.errors import usage
from sft.lib.files import read_json
from sft.lib.progress import log

ENGINES = ("transformers", "vllm", "server")


def open_engine(
    name: str,
    folder: Path,
    config_file: Path,
    base: Path | None,
    *,
    server: str | None = None,
    tensor_parallel: int = 1,
    max_model_len: int | None = None,
    batch: int | None = None,
    seed: int = 0,
) -> Engine:
    """An engine with the model in `folder`, or behind the URL `server`; the caller closes it.

    config_file: what it is loaded with in place of the folder's. base: what an adapter is put on, and whose tokenizer
    it is. max_model_len: tokens of prompt and answer together; batch: requests at once. Raises Failure.
    """
    positions = positions_of(config_file, max_model_len)
    if name == "transformers":
        from sft.eval.engines.transformer import BATCH, TransformersEngine, load, load_tokenizer

        model, tokenizer = load(folder, config_file, base), load_tokenizer(base or folder)
        return TransformersEngine(model, tokenizer, positions, batch or BATCH)
    if name == "vllm":
        from sft.eval.engines.offline import VllmEngine

        return VllmEngine(folder, config_file, base, positions, batch, tensor_parallel, seed)
    if name == "server":
        from sft.eval.engines.server import ServerEngine
        from sft.eval.engines.transformer import load_tokenizer

        if not server:
            usage("engine server needs the URL of one; give http://HOST:PORT/v1")
        return ServerEngine(server, load_tokenizer(base or folder), positions, batch)
    usage(f"there is no engine {name}; it is {', '.join(ENGINES)}")


def positions_of(config_file: Path, asked: int | None) -> int:
    """Tokens that a prompt and its answer may have together: what is asked for, but no more than the model has."""
    known = read_json(config_file).get("max_position_embeddings")
    if asked and known and asked > known:
        log(f"eval: the model has {known:,} positions, so prompt and answer have {known:,} tokens, not {asked:,}")
    found = min(filter(None, (known, asked)), default=None)
    return found or usage(f"{config_file} names no max_position_embeddings; set a length")
