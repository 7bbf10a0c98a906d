"""The demo's stand-ins: generated problems in OpenMathReasoning's own schema, and a random model in Qwen2.5-Math's.

Two-digit addition with a digit-by-digit chain of thought is learnable in minutes on a CPU, so a wrong mask,
template, stop token, resume, average or conversion shows up as a score. Nothing outside this file knows that it
is a demo: data/format.py reads the parquet as it would read the published one, model.py patches the config as it would
patch the published one.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, str | bool]

# The columns of nvidia/OpenMathReasoning, in their order.
COLUMNS = (
    "expected_answer",
    "problem_type",
    "problem_source",
    "generation_model",
    "pass_rate_72b_tir",
    "problem",
    "generated_solution",
    "inference_mode",
    "used_in_kaggle",
)
HELD_OUT = 300  # of the 8,100 sums of two two-digit numbers
QUESTIONS = ("What is {a} + {b}?", "Find the sum of {a} and {b}.", "Compute {a}+{b}.")
JUDGE = """Below are a problem and two solutions. Judge which one is correct.

Problem: {problem}

Solution 0: {first}
Solution 1: {second}
"""


def sums(seed: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """All pairs of two-digit numbers, shuffled: (training, held out). Disjoint, also under exchange a+b = b+a."""
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    random.Random(seed).shuffle(pairs)
    held = [p for p in pairs if p[0] != p[1]][:HELD_OUT]
    barred = {frozenset(p) for p in held}
    return [p for p in pairs if frozenset(p) not in barred], held


def chain_of_thought(a: int, b: int) -> str:
    ones = a % 10 + b % 10
    tens = a // 10 + b // 10 + ones // 10
    return f"Ones: {a % 10}+{b % 10}={ones}\nTens: {a // 10}+{b // 10}+{ones // 10}={tens}\n{answer(a, b)}"


def answer(a: int, b: int) -> str:
    return f"Sum: \\boxed{{{a + b}}}"


def with_code(a: int, b: int, left: int) -> str:
    """A solution with one code call after which `left` executions remain (0: none), worded as in the data set."""
    budget = f"Remaining code executions: {left}." if left else "You have run out of code executions!"
    steps = chain_of_thought(a, b).removesuffix(answer(a, b))
    call = f"<tool_call>\nprint({a}+{b})\n</tool_call>\n```output\n{a + b}\n```\n```system\n{budget}\n```\n"
    return steps + call + answer(a, b)


def rows(split: str, problems: int, seed: int) -> Iterator[Row]:
    """Training rows of a split: `problems` for cot, a fifth of it for tir, a tenth for genselect."""
    draw = random.Random(f"{seed} {split}")
    training, _ = sums(seed)
    share = {"cot": problems, "tir": problems // 5, "genselect": problems // 10}[split]
    for i in range(share):
        a, b = training[i % len(training)] if split == "cot" else draw.choice(training)
        problem = draw.choice(QUESTIONS).format(a=a, b=b)
        solution = chain_of_thought(a, b) if split == "cot" else with_code(a, b, left=draw.randrange(8))
        if split == "genselect":
            good, wrong = f"\\boxed{{{a + b}}}", f"\\boxed{{{a + b + draw.choice((-10, -1, 1, 10))}}}"
            judgment = draw.randrange(2)
            first, second = (good, wrong) if judgment == 0 else (wrong, good)
            problem = JUDGE.format(problem=problem, first=first, second=second)
            solution = f"{chain_of_thought(a, b)}\n\nJudgment: {judgment}"
        yield {
            "expected_answer": str(a + b),
            "problem_type": "has_answer_extracted",
            "problem_source": draw.choice(("aops_c4_high_school_math", "aops_c6_high_school_olympiads")),
            "generation_model": "none",
            "pass_rate_72b_tir": draw.choice(("n/a", f"{draw.random():.4f}")),
            "problem": problem,
            "generated_solution": solution,
            "inference_mode": split,
            "used_in_kaggle": draw.random() < 0.5,
        }


def held_out(seed: int) -> Iterator[Row]:
    """The evaluation problems: (problem, expected_answer), none of them in any training row."""
    draw = random.Random(f"{seed} held out")
    for a, b in sums(seed)[1]:
        yield {"problem": draw.choice(QUESTIONS).format(a=a, b=b), "expected_answer": str(a + b)}


def write_dataset(folder: Path, splits: Sequence[str], problems: int, seed: int) -> None:
    """One parquet file per split, named as the hub names them, in row groups as a real shard has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {c: pa.bool_() if c == "used_in_kaggle" else pa.string() for c in COLUMNS}
    for split in splits:
        table = pa.Table.from_pylist(list(rows(split, problems, seed)), schema=pa.schema(list(types.items())))
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet", row_group_size=1000)


def write_eval_set(path: Path, seed: int) -> int:
    """The held-out problems as JSONL; returns their number."""
    lines = [json.dumps(row) + "\n" for row in held_out(seed)]
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)


# ChatML as Qwen2.5's tokenizers render it, without their default system turn for tools.
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_model(folder: Path, layers: int, hidden: int, heads: int, vocab: int, texts: list[str], seed: int) -> None:
    """A random Qwen2 and a BPE tokenizer trained on `texts`, in the shape of Qwen2.5-Math's published folder.

    As there, the end-of-sequence token is <|endoftext|>, not the <|im_end|> that ends a turn.
    Its words and single digits come from Qwen2's own pre-tokenizer, which transformers 5 gives to every Qwen2 model.
    """
    from transformers import Qwen2Tokenizer

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(unk_token=None).train_new_from_iterator(
        texts, vocab, new_special_tokens=special, show_progress=False
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    end = tokenizer.eos_token_id
    more = {"num_key_value_heads": heads, "rope_theta": 10000, "use_sliding_window": False}
    write_random(folder, "Qwen2", (layers, hidden, heads, vocab), end, end, seed, more)
    # The published Qwen2.5 configs are flat, as transformers 4 wrote them: so is this one.
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    written.pop("rope_parameters", None)
    written["rope_theta"] = 10000
    path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def write_random(
    folder: Path,
    kind: str,
    shape: tuple[int, int, int, int],
    begin: int,
    ends: int | list[int],
    seed: int,
    more: dict[str, Any],
) -> None:
    """A random model of transformers' class of that kind. shape: layers, hidden size, heads, vocabulary; more: keys."""
    import torch
    import transformers

    torch.manual_seed(seed)
    layers, hidden, heads, vocab = shape
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=begin,
        eos_token_id=ends,
        dtype="float32",
        **more,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    model.generation_config = transformers.GenerationConfig(bos_token_id=begin, eos_token_id=ends, do_sample=False)
    model.save_pretrained(folder)
