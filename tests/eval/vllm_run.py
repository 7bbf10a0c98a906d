"""Runs in vLLM's Python for test_vllm.py: `samples` makes a file of samples, `checks` that and answers to
compare, `adapter` answers of the adapter in FOLDER.

    python tests/eval/vllm_run.py MODEL FOLDER samples|checks|adapter
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from vllm_model import CALLED, requests, sampling

from sft.eval.engines.base import Completion, Engine, Request, Sampling
from sft.eval.engines.driver import answer_all
from sft.eval.engines.opening import open_engine
from sft.eval.engines.samples import seeds_of
from sft.lib.errors import run

COUNT = 24


def answers(engine: Engine, asked: list[Request], chosen: Sampling) -> dict[str, Any]:
    return {str(done[0].key[0]): as_json(done[1]) for done in engine.run(iter(asked), chosen) if done}


def as_json(made: Completion) -> list[Any]:
    return [made.text, made.tokens, made.reason, made.stop, list(made.ids)]


def main() -> None:
    model, folder, what = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    weights = folder if what == "adapter" else model
    engine = open_engine("vllm", weights, model / "config.json", model, max_model_len=40960, batch=4)
    tokenizer = engine.vocabulary.tokenizer  # type: ignore[attr-defined]
    if what == "adapter":
        made = answers(engine, requests(tokenizer, COUNT), sampling(tokenizer, 0.0))
        (folder / "answers.json").write_text(json.dumps(made))
        engine.close()
        return
    drawn = sampling(tokenizer, 0.9, top_p=0.95)
    prompts = {str(asked.key[0]): asked.prompt for asked in requests(tokenizer, 12)}
    prompts["long"] = tuple(range(20, 260)) * 2  # longer than what one step takes by default
    prompts["too long"] = tuple(range(20, 276)) * 2
    seeds = seeds_of([("sums", name) for name in prompts], 4, 7)
    answer_all(lambda: engine, drawn, lambda key: prompts[key[1]], folder / "sums.samples.jsonl", seeds, 80)
    if what == "checks":
        asked = requests(tokenizer, COUNT)
        found: dict[str, Any] = {"facts": engine.facts()}
        found["greedy"] = answers(engine, asked, sampling(tokenizer, 0.0))
        found["drawn"] = answers(engine, asked, drawn)
        found["reversed"] = answers(engine, asked[::-1], drawn)
        found["alone"] = {name: made for one in asked[:10] for name, made in answers(engine, [one], drawn).items()}
        found["most"] = answers(engine, asked, sampling(tokenizer, 0.9, top_k=1))
        texts = " ".join(made[0][4:] for made in found["greedy"].values())
        found["string"] = re.findall("[!-~]{2}", texts)[0]  # two letters that some answer has
        stops = requests(tokenizer, COUNT, stop=(found["string"], CALLED))
        found["stopped"] = answers(engine, stops, sampling(tokenizer, 0.0))
        (folder / "checks.json").write_text(json.dumps(found))
    engine.close()


if __name__ == "__main__":
    run(main)
