"""Tokens per row, with and without loss, and what they mean for packing and steps."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sft.lib.errors import Failure
from sft.recipe.engines import engine_of, sequence_unit
from sft.recipe.keys import Recipe
from sft.rows.packing import fill, pack

TASK_ROWS = 50


@dataclass
class Lengths:
    """Tokens of some rows: of the prompt, and of the answer, which carry loss."""

    prompt: list[int]
    answer: list[int]

    @property
    def total(self) -> list[int]:
        return [p + a for p, a in zip(self.prompt, self.answer, strict=True)]


@cache
def counter(folder: Path) -> Any:
    from sft.rows.tokens import TokenCounter

    return TokenCounter(folder)


def count(task: tuple[Path, Path, str, list[int]]) -> Lengths:
    """Lengths of the rows at some offsets of a JSONL file. Raises Failure naming the row.

    task: file, tokenizer, the token after which the engine cuts an answer ("": it does not), offsets in bytes.
    """
    import orjson

    path, tokenizer, end, offsets = task
    tokens, found = counter(tokenizer), Lengths([], [])
    with open(path, "rb") as file:
        for offset in offsets:
            file.seek(offset)
            try:
                row = orjson.loads(file.readline())
                prompt, answer = row["input"], row["output"]
                if end:
                    answer = answer[: answer.rindex(end) + len(end)]
                found.prompt.append(tokens.count(prompt))
                found.answer.append(tokens.count(answer))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                why = f"{type(error).__name__}: {error}"
                raise Failure(
                    f"{path}: the row at byte {offset} is not input and output ({why}); run make data again"
                ) from None
    return found


def percentile(ordered: Sequence[int], share: float) -> int:
    """The smallest value that at least `share` of the values do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def too_long(recipe: Recipe, tokens: int) -> bool:
    """Whether a row of so many tokens carries no loss, or is cut; row.py of each engine has the rule."""
    return tokens >= recipe["SEQ_LEN"] + (not engine_of(recipe).row_below)


def figures(recipe: Recipe, rows: int, found: Lengths, whole: bool, seed: int) -> dict[str, Any]:
    """What the lengths say of all `rows` rows. Shares are between 0 and 1, lengths are tokens."""
    seq_len, batch, engine = recipe["SEQ_LEN"], recipe["GLOBAL_BATCH"], engine_of(recipe)
    total = found.total
    ordered, n = sorted(total), len(total)
    mean = sum(total) / n
    spread = math.sqrt(sum((x - mean) ** 2 for x in total) / max(1, n - 1))
    error = spread / math.sqrt(n) / mean if mean and not whole else 0.0
    lost = [too_long(recipe, x) for x in total]
    supervised = sum(s for s, gone in zip(found.answer, lost, strict=True) if not gone) / n
    # One global batch, drawn: with fewer rows counted than a batch has, some stand in more than once. Of NeMo-RL: a row
    # that is masked leaves a few tokens, and a row in a bin is padded.
    draw = random.Random(seed)
    drawn = draw.sample(total, batch) if batch <= n else draw.choices(total, k=batch)
    if engine.pads:
        unit = sequence_unit(recipe)
        lengths = [-(-(8 if too_long(recipe, x) else x) // unit) * unit for x in drawn]
        packed = pack(lengths, -(-seq_len // unit) * unit)
    else:  # in their order, without padding, as automodel/packed.py does
        lengths = [max(1, min(x, seq_len) - 1) for x in drawn]
        packed = fill(lengths, seq_len)
    bins = [sum(lengths[i] for i in rows) for rows in packed]
    return {
        "rows": rows,
        "counted": n,
        "whole": whole,
        "standard_error": error,
        "tokens": {
            "mean": mean,
            "p50": percentile(ordered, 0.5),
            "p90": percentile(ordered, 0.9),
            "p99": percentile(ordered, 0.99),
            "max": ordered[-1],
            "total": round(mean * rows),
            "supervised": round(supervised * rows),
            "prompt_mean": sum(found.prompt) / n,
        },
        "over_seq_len": sum(lost) / n,
        "seq_len": seq_len,
        "global_batch": batch,
        "steps_per_epoch": rows // batch,
        "rows_left_over": rows % batch,
        "bins_per_batch": len(bins),
        "bin_fill": sum(bins) / (len(bins) * seq_len),
        "steps_per_epoch_packed": max(1, round(rows / batch * len(bins) / batch)),
        "epochs": recipe["STEPS"] * batch / rows,
        "histogram": histogram(ordered, seq_len),
    }


def histogram(ordered: Sequence[int], seq_len: int) -> dict[str, list[int]]:
    """Counts of rows in some twenty classes of equal width up to SEQ_LEN, and one above it."""
    width = max(1, -(-min(seq_len, ordered[-1]) // 20))
    edges = list(range(0, min(seq_len, ordered[-1]) + width, width))
    counts = [0] * len(edges)
    for x in ordered:
        counts[min(x // width, len(edges) - 1)] += 1
    return {"from": edges, "rows": counts}
