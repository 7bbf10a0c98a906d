"""GenSelect: the model is shown summaries of several of its solutions, and says which is the best.

As published with the models: of 64 samples of a problem 64 comparisons of up to 16, and the majority of the answers
that were picked (arXiv 2504.16891 table 7, sections 4.2 and 4.3). Rules: NeMo-Skills f2aca7ab^
nemo_skills/inference/genselect_preprocess.py and genselect.py. What is drawn at random is seeded here, which it is not
upstream (its line 191), so that a comparison can be made again.
"""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sft.eval.protocols.read import Mode

PARAGRAPHS = 10
JUDGMENT = re.compile(r"Judge?ment: (\d+)")


@dataclass(frozen=True)
class Sample:
    """A solution of a problem, and the answer in it; None: it has none."""

    text: str
    answer: str | None


def summary(text: str, most: int) -> str:
    """What a comparison shows of a solution: what follows the thoughts, at most its last characters (81-98)."""
    if "</think>" in text:
        found = text.rpartition("</think>")[2]
    elif len(text) < most:
        found = text
    else:
        found = "\n\n".join(text.split("\n\n")[-PARAGRAPHS:])[-most:]
    return found.replace("<think>", "")[-most:]


def groups_of(samples: Sequence[Sample]) -> list[list[int]]:
    """Places of the samples with the same answer, as it is written; those without one are a group (39-54)."""
    found: dict[str | None, list[int]] = {}
    for place, sample in enumerate(samples):
        found.setdefault(sample.answer, []).append(place)
    return list(found.values())


def candidates(groups: Sequence[Sequence[int]], draw: random.Random, most: int) -> list[int]:
    """Places of the samples of one comparison: of each group its share of `most`, at least one (101-141).

    A share that is no whole number is rounded up with the probability of its fraction. When more than `most` come
    together the last ones drawn are left out, so that a group may have none.
    """
    order = list(groups)
    draw.shuffle(order)
    total = sum(map(len, order))
    found: list[int] = []
    for group in order:
        share = len(group) / total * min(most, total)
        whole = math.floor(share) + (draw.random() < share - math.floor(share))
        found += draw.sample(group, min(max(1, whole), len(group)))
    return found[:most]


def user_turn(mode: Mode, problem: str, summaries: Sequence[str]) -> str:
    """The question of a comparison (144-157), a blank line after the last solution, as in the released code."""
    solutions = "".join(f"Solution {place}:\n{text}\n\n" for place, text in enumerate(summaries))
    last = len(summaries) - 1
    return mode.prompt.format(problem=problem, solutions=solutions, num_solutions=len(summaries), max_idx=last)


def judgment(text: str, count: int) -> int | None:
    """The last index that the model names, None when it names none or one that is not there (genselect.py:78-104)."""
    found = JUDGMENT.findall(text)
    if not found or len(found[-1]) > 9:  # Python reads no number of more than 4,300 digits
        return None
    index = int(found[-1])
    return index if index < count else None


def generator(seed: int, name: str, comparison: int) -> random.Random:
    """The random numbers of a comparison, the same in every process; name: of the benchmark and the problem."""
    return random.Random(f"{seed}/{name}/{comparison}")


def compared(mode: Mode, samples: Sequence[Sample], draw: random.Random) -> list[int]:
    """Places of the samples that a comparison is of. Where all have one answer nothing is asked (55-73): [0].

    Raises ValueError without samples.
    """
    if not samples:
        raise ValueError("there are no solutions to compare")
    groups = groups_of(samples)
    assert mode.candidates
    return [0] if len(groups) == 1 else candidates(groups, draw, mode.candidates)


def question(mode: Mode, problem: str, samples: Sequence[Sample], seed: int, name: str, number: int) -> str | None:
    """The user's turn of comparison `number`; None where nothing is asked. name: of the benchmark and the problem."""
    places = compared(mode, samples, generator(seed, name, number))
    if len(places) == 1:
        return None
    assert mode.summary_characters
    return user_turn(mode, problem, [summary(samples[place].text, mode.summary_characters) for place in places])


def conclusion(mode: Mode, samples: Sequence[Sample], seed: int, name: str, number: int, text: str) -> dict[str, Any]:
    """What the model's text makes of the same comparison: its candidates, the index named, the sample picked.

    judgment None: it named none, and the pick is drawn at random.
    """
    draw = generator(seed, name, number)
    places = compared(mode, samples, draw)
    index = judgment(text, len(places)) if len(places) > 1 else 0
    picked = places[draw.randrange(len(places)) if index is None else index]
    found = {"candidates": places, "picked": picked, "answer": samples[picked].answer}
    return found | {"asked": len(places) > 1, "judgment": index if len(places) > 1 else None}
