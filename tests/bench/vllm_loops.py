"""Time the driver on engine vllm against vLLM's own LLM.generate, in turn, in one process; runs in vLLM's Python.

    PYTHONPATH=python:tests/eval python tests/bench/vllm_loops.py FOLDER REQUESTS ROUNDS

Both have the same model, prompts, seeds, sampling and number of sequences at once, and generate as many tokens.
LLM.generate is what `vllm bench throughput` times. Ours also writes each answer to a file. Writes FOLDER/runs.json.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from vllm_model import requests, write_model

from sft.eval.engines.base import Sampling
from sft.eval.engines.driver import answer_all
from sft.eval.engines.offline import SETTINGS, VllmEngine
from sft.eval.engines.samples import seeds_of
from sft.lib.errors import Failure, run
from sft.lib.files import read_jsonl

BATCH, TOKENS, SEED = 64, 96, 7


def main() -> None:
    folder, count, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    model = folder / "model"
    if not model.is_dir():
        write_model(model, hidden=256, layers=4)
    engine = VllmEngine(model, model / "config.json", None, 512, BATCH)
    from vllm import LLM, SamplingParams

    theirs = LLM(
        str(model), dtype="float32", max_model_len=512, max_num_seqs=BATCH, enforce_eager=True,
        generation_config="vllm", enable_chunked_prefill=False, max_num_batched_tokens=512, disable_log_stats=True,
    )  # fmt: skip
    asked = requests(engine.vocabulary.tokenizer, count)
    seeds = seeds_of([("bench", str(request.key[0])) for request in asked], 1, SEED)
    by_name = {str(request.key[0]): request.prompt for request in asked}
    prompts: list[Any] = [{"prompt_token_ids": list(request.prompt)} for request in asked]
    options: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "max_tokens": TOKENS, "ignore_eos": True}
    parameters = [SamplingParams(seed=seed, **options) for seed in seeds.values()]
    target = folder / "bench.samples.jsonl"

    def ours() -> list[str]:
        target.unlink(missing_ok=True)
        sampling = Sampling(0.9, ends=(), top_p=0.95)
        answer_all(lambda: engine, sampling, lambda key: by_name[key[1]], target, seeds, TOKENS)
        return [row["text"] for row in read_jsonl(target)]

    def plain() -> list[str]:
        made = theirs.generate(prompts, parameters, use_tqdm=False)
        return [engine.vocabulary.decode(one.outputs[0].token_ids) for one in made]

    runs: dict[str, list[tuple[float, float]]] = {"ours": [], "plain": []}
    for number in range(-1, rounds):  # the first one warms up
        texts = {}
        for name in ("ours", "plain") if number % 2 else ("plain", "ours"):
            engine.engine.reset_prefix_cache()
            theirs.llm_engine.reset_prefix_cache()
            wall, cpu = time.perf_counter(), time.process_time()
            texts[name] = {"ours": ours, "plain": plain}[name]()
            if number >= 0:
                runs[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        if texts["ours"] != texts["plain"]:
            raise Failure("the answers are not those of LLM.generate with the same seeds; fix it")
    made = {"version": engine.version, "tokens": count * TOKENS, "settings": SETTINGS, "runs": runs}
    (folder / "runs.json").write_text(json.dumps(made))


if __name__ == "__main__":
    run(main)
