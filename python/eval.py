"""Score the untouched base and the averaged model on the recipe's held-out set, greedily.

    python python/eval.py tiny 1 --work work

Each problem is put in the very prompt that training used, the answer ends at the trained end-of-turn token, and the
last \\boxed{} is graded with the math-verify library. Writes WORK/runs/<model>/round<N>/eval/: one JSONL of
generations per model, and DONE with pass@1, no-answer and truncation rates. The base is loaded with its config as
published: patching RoPE is part of training.
"""

import json
import os
from pathlib import Path
from typing import Any

import recipe as recipes
from lib import Failure, Progress, is_done, log, new_folder, read_done, read_jsonl, recipe_hash, run, sha256, write_done
from openmath import END_OF_TURN, PROMPTS, chatml

BATCH = 50


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{...}, with braces matched; None when there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for i in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : i]
    return None


def correct(expected: str, answer: str | None) -> bool:
    """Whether math-verify finds the two answers equal."""
    from math_verify import parse, verify

    if answer is None:
        return False
    return bool(verify(parse(f"${expected}$"), parse(f"${answer}$")))


def generate(folder: Path, config_file: Path, prompts: list[str], max_tokens: int) -> list[tuple[str, bool]]:
    """(text, truncated) of each prompt's greedy answer, without the end-of-turn token that ends it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    config = AutoConfig.from_pretrained(config_file)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype="auto").to(device).eval()
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=max_tokens, eos_token_id=end, pad_token_id=tokenizer.pad_token_id
    )
    answers: list[tuple[str, bool]] = []
    progress = Progress(f"eval: {folder.name} answers", len(prompts))
    for i in range(0, len(prompts), BATCH):
        batch = tokenizer(prompts[i : i + BATCH], return_tensors="pt", padding=True, add_special_tokens=False).to(
            device
        )
        with torch.inference_mode():
            output = model.generate(**batch, generation_config=settings)
        for ids in output[:, batch["input_ids"].shape[1] :].tolist():
            ended = end in ids
            answers.append((tokenizer.decode(ids[: ids.index(end)] if ended else ids), not ended))
        progress.show(len(answers))
    return answers


def score(problems: list[dict[str, Any]], answers: list[tuple[str, bool]], target: Path) -> dict[str, Any]:
    """Grade the answers, write them to `target`, and return n and the three rates."""
    rows = []
    for problem, (text, truncated) in zip(problems, answers, strict=True):
        answer = boxed(text)
        row = problem | {"generation": text, "answer": answer, "truncated": truncated}
        rows.append(row | {"correct": correct(problem["expected_answer"], answer)})
    target.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return {
        "n": len(rows),
        "pass@1": round(sum(r["correct"] for r in rows) / len(rows), 4),
        "no_answer": round(sum(r["answer"] is None for r in rows) / len(rows), 4),
        "truncated": round(sum(r["truncated"] for r in rows) / len(rows), 4),
    }


def main() -> None:
    args, recipe, paths = recipes.open_run(recipes.parser(__doc__))
    if "EVAL_SET" not in recipe:
        raise Failure(f"recipe {args.model} names no EVAL_SET; this version evaluates the recipes that do")
    again = f"MODEL={args.model} ROUND={args.round}"
    test = paths.work / "data" / recipe["EVAL_SET"] / "source" / "test.jsonl"
    if not test.is_file():
        raise Failure(f"{test} is missing; run: make data {again}")
    average = read_done(paths.average, f"run: make average {again}")
    base = read_done(paths.base, f"run: make model {again}")
    keys = recipes.stage_keys(recipe, "eval")
    inputs = {
        "test": sha256(test),
        "baseline": recipe_hash(base["outputs"]),
        "averaged": recipe_hash(average["outputs"]),
    }
    if is_done(paths.eval, keys, inputs):
        log(f"eval: {paths.eval} is already there")
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    problems = list(read_jsonl(test))
    prompts = [chatml(PROMPTS["cot"].format(problem=problem["problem"])) for problem in problems]
    models = {
        "baseline": (paths.base, paths.base / "config.original.json"),
        "averaged": (paths.average, paths.average / "config.json"),
    }
    with new_folder(paths.eval) as part:
        scores = {}
        for name, (folder, config) in models.items():
            answers = generate(folder, config, prompts, int(recipe["EVAL_MAX_TOKENS"]))
            scores[name] = score(problems, answers, part / f"{name}.jsonl")
            rates = ", ".join(f"{what} {rate:.1%}" for what, rate in scores[name].items() if what != "n")
            log(f"eval: {name}: {rates} of {len(problems)}")
        write_done(part, keys, inputs, scores=scores, grader="math-verify", decoding="greedy")


if __name__ == "__main__":
    run(main)
