"""Made runs for the tests of the results page: rows as make eval writes them, and the result that they belong to."""

import json
import random
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from sft.eval.scores.rates import all_rates
from sft.eval.scores.samples import read as read_samples

WORDS = ["so", "the sum", "of both sides", "is then", "we have", "wait", "let me check", "$x^2+1$", "\\frac{3}{7}"]
METRICS = {step: {"loss": 3.0 / step + 0.1, "lr": 1e-3 / step} for step in range(1, 61)}
BENCH = "comp-math-24-25"
# Problems of each of its parts, as the benchmark has them.
PARTS = {"aime24": 30, "aime25": 30, "hmmt-24-25": 196}


@cache
def pool() -> str:
    """Four million characters that look like a thought, and hardly repeat."""
    draw = random.Random(7)
    lines = (" ".join([*draw.choices(WORDS, k=9), str(draw.random())]) for _ in range(50_000))
    return "\n".join(lines)


def rows_of(
    samples: int, length: int, seed: int, right: float = 0.5, calls: bool = False, problems: int = 256
) -> Iterator[dict[str, Any]]:
    """k graded samples of comp-math-24-25, as a protocol's evaluation writes them: sorted by sample, then by problem.

    length: characters of an answer that is neither long nor short. right: the share of right answers.
    """
    draw = random.Random(seed)
    names = [(part, f"{part}-{n}") for part, count in PARTS.items() for n in range(count)][:problems]
    ease = [draw.betavariate(2 * right, 2 * (1 - right)) for _ in names]
    for sample in range(samples):
        for number, (part, name) in enumerate(names):
            correct = draw.random() < ease[number]
            cut = not correct and draw.random() < 0.15
            other = None if cut or draw.random() < 0.1 else str(draw.randrange(1000, 1009))
            answer = str(number) if correct else other
            size = int(length * (2 if cut else draw.uniform(0.2, 1.6)))
            start = draw.randrange(len(pool()) - size)
            code = "<tool_call>\nprint(3 + 4)\n</tool_call>\n```output\n7\n```\n" if calls else ""
            end = "" if cut else f"\n</think>\nThe answer is \\boxed{{{answer}}}."
            text = f"<think>\n{pool()[start : start + size]}\n{code}{end}"
            yield {
                "benchmark": BENCH, "problem": name, "subset": part, "sample": sample,
                "question": f"What is {number} plus zero?", "prompt": f"<|im_start|>user\n{number} + 0<|im_end|>\n",
                "generation": text, "answer": answer, "expected_answer": str(number), "correct": correct,
                "finish": "length" if cut else "stop", "tokens": len(text) // 3, "calls": int(calls),
            }  # fmt: skip


def write(path: Path, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows to a file of eval; returns what scores need of each."""
    kept = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
            kept.append({k: v for k, v in row.items() if k not in ("generation", "prompt", "question")})
    return kept


def run(
    folder: Path, samples: int = 4, length: int = 300, models: tuple[str, ...] = ("baseline", "trained"),
    modes: tuple[str, ...] = ("cot", "tir"), **facts: Any,
) -> dict[str, Any]:  # fmt: skip
    """A run's eval folder, and its result."""
    scores: dict[str, Any] = {}
    for number, (model, mode) in enumerate((model, mode) for model in models for mode in modes):
        right = 0.55 if model == "trained" else 0.2
        kept = write(folder / f"{model}.{BENCH}.{mode}.jsonl", rows_of(samples, length, number, right, mode == "tir"))
        for name, figures in all_rates(read_samples(kept), {BENCH: samples}).items():
            scores.setdefault(model, {}).setdefault(name, {})[mode] = figures
    return result(scores, **facts)


def result(scores: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """results.json of a made run with these scores."""
    return {
        "model": "qwen1.5b", "round": "2exact", "code": {"commit": "c0ffee" * 6 + "c0ff", "dirty": False},
        "recipe": {"BASE_MODEL": "Qwen/Qwen2.5-Math-1.5B", "LR": "1e-4", "STEPS": "10000"}, "recipe_sha256": "5" * 64,
        "scored": {"baseline": "models/Qwen2.5-Math-1.5B", "trained": "runs/qwen1.5b/round2exact/average"},
        "data_sha256": "d" * 64, "model_revision": "4a83ca6e4526a4f2da3aa259ec36c259f66b2ab2",
        "steps": 10000, "links": 3, "final_loss": 0.3456,
        "grader": "release", "decoding": "temperature 0.6, top_p 0.95, seed 42", "max_tokens": 32768, "scores": scores,
        "evaluations": {
            "eval": {"grader": "release", "decoding": "temperature 0.6, top_p 0.95, seed 42", "protocol": None}
        },
        "stages": {"train": {"seconds": 3600.0, "peak_memory_bytes": 1 << 30}},
    } | facts  # fmt: skip


# What a model may write, and what must come of it: nothing.
HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<!-- <script> <img src=x onerror='window.hacked = 1'>",
    "</pre></dialog><iframe srcdoc='<script>parent.hacked = 1</script>'></iframe>",
    '"); window.hacked = 1; ("',
    "{{records}} {{script}} ${window.hacked = 1} &lt;b&gt; \\u003cscript>",
    "\x00\x07\x1b[31mred\x1b[0m \x85 \x7f",
    "half a pair: \ud800 and \udfff, a whole one: \U0001f600",
    "\u2028\u2029 turned: \u202egnitirw \u2066\ufeff",
    "</think></think><think><tool_call>```output\n<tool_call>",
    "",
    "a" * 200_000,
    "\n".join(["line"] * 30_000),
]
ODD = "odd \"<b>&'#?%25"  # the name of a set


def hostile_run(folder: Path) -> dict[str, Any]:
    """A run of which each text is one of HOSTILE: problems' names, questions, answers, generations."""
    rows = [
        {
            "benchmark": ODD, "problem": f"{number} {text[:60]}", "sample": sample, "question": text, "prompt": text,
            "generation": text, "answer": text[:90] or None, "expected_answer": text[:90], "correct": sample == 0,
            "finish": text[:40], "tokens": len(text), "note": text, "turns": [{"code": text, "status": text[:40]}],
        }
        for number, text in enumerate(HOSTILE)
        for sample in (0, 1)
    ]  # fmt: skip
    write(folder / f"trained.{ODD}.cot.jsonl", rows)
    figures = {"n": len(rows), "pass@1": 0.5, "no_answer": 0.0, "truncated": 0.0}
    facts = {"model": HOSTILE[0], "decoding": HOSTILE[1], "machine": {"image": HOSTILE[5], "hardware": HOSTILE[6]}}
    return result({"trained": {ODD: {"cot": figures}}}, **facts)
