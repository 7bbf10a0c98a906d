"""Whether training learns anything: of its data before it starts, and of each step while it runs."""

import math
import random
import sys
from pathlib import Path

from sft.lib.errors import Failure
from sft.recipe.engines import engine_of
from sft.recipe.keys import Recipe
from sft.rows.chat import ENDS

SAMPLE = 200  # rows that are counted before training
LARGE = 64 << 20  # bytes of a file that is not looked through for it


def check_step(step: int, loss: float, label_tokens: int | None = None) -> None:
    """Raise Failure for a step that learned nothing or broke the model. label_tokens: of the step, where they are told.

    step: its number from 1.
    """
    if label_tokens == 0 or (label_tokens is None and loss == 0):
        raise Failure(
            f"step {step}: no token carried loss; run make inspect, and raise SEQ_LEN in the recipe or prepare other "
            "rows: nothing of this step was saved"
        )
    if not math.isfinite(loss):
        raise Failure(
            f"step {step}: the loss is {loss}; lower LR or CLIP_GRAD in the recipe, or look for a row that is "
            "different in make inspect: nothing of this step was saved"
        )


def sample(path: Path, seed: int) -> list[int]:
    """Offsets of SAMPLE rows of a JSONL file, of all where there are no more.

    A large file is not read whole: the line after each of some random places is taken.
    """
    from sft.rows.dataset import line_offsets

    draw, size, found = random.Random(seed), path.stat().st_size, set()
    if size <= LARGE:
        offsets = [int(offset) for offset in line_offsets(path)]
        return sorted(draw.sample(offsets, min(SAMPLE, len(offsets))))
    with open(path, "rb") as file:
        for _ in range(SAMPLE):
            file.seek(draw.randrange(size))
            file.readline()
            found.add(file.tell() if file.tell() < size else 0)
    return sorted(found)


def check_rows(recipe: Recipe, path: Path, rows: int, start: Path) -> None:
    """Refuse data of which too little carries loss for a step; warn where some does not. Raises Failure.

    start: the model's folder, with its tokenizer. NeMo 2.0 cuts a row that is too long, where the other engines leave
    it without loss: there it is a warning.
    """
    from sft.rows.lengths import count, too_long

    engine, seq_len, batch = engine_of(recipe), recipe["SEQ_LEN"], recipe["GLOBAL_BATCH"]
    end = ENDS[recipe["CHAT"]] if engine.adds_end else ""
    offsets = sample(path, recipe["SEED"])
    found = count((path, start, end, offsets))
    long = [too_long(recipe, tokens) for tokens in found.total]
    learned = sum(tokens > 0 and (engine.cuts or not gone) for tokens, gone in zip(found.answer, long, strict=True))
    counted = f"{len(long):,} rows" if len(long) == rows else f"{len(long):,} rows drawn of {rows:,}"
    if learned * batch < len(long):
        what = "none carries" if not learned else f"{learned:,} carry"
        raise Failure(
            f"{path}: of {counted} {what} loss, not one in a step of GLOBAL_BATCH={batch}: {sum(long):,} are too long "
            f"for SEQ_LEN={seq_len:,}; raise it in the recipe, or prepare shorter rows"
        )
    if share := sum(long) / len(long):
        fate = "are cut" if engine.cuts else "carry no loss"
        print(
            f"warning: {path}: {share:.1%} of {counted} are too long for SEQ_LEN={seq_len:,} and {fate}; raise it in "
            "the recipe, or count on fewer rows",
            file=sys.stderr,
        )
