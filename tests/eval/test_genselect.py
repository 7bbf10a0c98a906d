"""GenSelect by cases worked out by hand, from the rules of NeMo-Skills f2aca7ab^ genselect_preprocess.py."""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from sft.eval.modes.genselect import (
    Sample,
    candidates,
    conclusion,
    generator,
    groups_of,
    judgment,
    question,
    summary,
    user_turn,
)
from sft.eval.protocols.read import protocol

MODE = protocol("published").mode("genselect")


class Draw(random.Random):
    """Draws as they are told: the groups stay in their order, the first of a group are taken, a fraction is 0.5."""

    def shuffle(self, x: object, *_: object) -> None:  # type: ignore[override]
        pass

    def random(self) -> float:
        return 0.5

    def sample(self, population: Sequence[int], k: int, **_: object) -> list[int]:  # type: ignore[override]
        return list(population[:k])


def samples(*answers: str | None) -> list[Sample]:
    return [Sample(f"<think>t{n}</think>s{n}", answer) for n, answer in enumerate(answers)]


def test_the_prompt_is_the_published_one() -> None:
    """sha256 of what YAML reads in NeMo-Skills 8b18f39 nemo_skills/prompt/config/openmath/genselect.yaml."""
    digest = "d4d8409e13c8f9199ccf67f066792765b593be9d797ac1cda4902376b719dcf4"
    assert hashlib.sha256(MODE.prompt.encode()).hexdigest() == digest


def test_the_question_holds_the_solutions_as_the_released_code_put_them() -> None:
    text = user_turn(MODE, "What is {1+1}?", ["two: \\boxed{2}", "three"])
    assert "followed by 2 solutions." in text and "indexed 0-1, each" in text and "notation" in text
    assert (
        "\nProblem: What is {1+1}?\n\nSolutions:\nSolution 0:\ntwo: \\boxed{2}\n\nSolution 1:\nthree\n\n\n\nEval"
        in text
    )
    assert "including \\boxed{}\n" in text and text.endswith(
        "Judgment: [IDX]\nwhere IDX is the index 0-1 of the best solution."
    )


@pytest.mark.parametrize(
    "text, shown",
    [
        ("<think>a</think>b</think>c", "c"),
        ("<think>thoughts that never end", "thoughts that never end"),
        ("x" * 4999, "x" * 4999),
        ("x" * 5000, "x" * 5000),
        ("\n\n".join(f"{n:>500}" for n in range(12)), "\n\n".join(f"{n:>500}" for n in range(2, 12))[-5000:]),
        ("\n\n".join(["p" * 5000, *"abcdefghij"]), "\n\n".join("abcdefghij")),
        ("</think>" + "a" + "b" * 5000, "b" * 5000),
        ("t</think><think>s", "s"),
    ],
)
def test_summary(text: str, shown: str) -> None:
    assert summary(text, 5000) == shown


def test_groups_are_of_equal_text_and_no_answer_is_one() -> None:
    assert groups_of(samples("1/2", "0.5", None, "1/2", None)) == [[0, 3], [1], [2, 4]]


@pytest.mark.parametrize(
    "sizes, taken",
    [
        ([48, 16], [12, 4]),  # of 64: 0.75 * 16 and 0.25 * 16, no fractions
        ([60, 3, 1], [15, 1, 0]),  # 15; 0.75 -> 1 as 0.5 < 0.75; 0.25 -> 0, at least 1; cut to 16
        ([61, 1, 1, 1], [15, 1, 0, 0]),  # 15.25 -> 15 as 0.5 >= 0.25; 0.25 -> 0, so 1 each: cut to 16
        ([2, 1], [2, 1]),  # fewer than 16: all of them
        ([20, 20], [8, 8]),
        ([1] * 40, [1] * 16 + [0] * 24),  # 0.4 -> 0, at least 1 each, cut
    ],
)
def test_each_group_has_its_share_of_sixteen(sizes: list[int], taken: list[int]) -> None:
    answers = [f"a{n}" for n, size in enumerate(sizes) for _ in range(size)]
    found = candidates(groups_of(samples(*answers)), Draw(), 16)
    counts = Counter(answers[place] for place in found)
    assert [counts[f"a{n}"] for n in range(len(sizes))] == taken
    assert len(set(found)) == len(found) <= 16


def test_a_share_is_rounded_up_as_often_as_its_fraction_says() -> None:
    """10 of 64 are 2.5 of 16: half of the draws have 3; every sample is drawn equally often."""
    groups, drawn = groups_of(samples(*["a"] * 54, *["b"] * 10)), Counter[int]()
    sizes = Counter()
    for number in range(4000):
        places = candidates(groups, generator(1, "x", number), 16)
        small = [place for place in places if place >= 54]
        sizes[len(small)] += 1
        drawn.update(small)
    # When the small group comes last, 13.5 -> 14 of the large one and 3 of it make 17, and one is cut.
    assert set(sizes) == {2, 3} and 0.35 < sizes[3] / 4000 < 0.55
    assert max(drawn.values()) < 1.25 * min(drawn.values())


@pytest.mark.parametrize(
    "text, index",
    [
        ("Judgment: 3", 3),
        ("Judgement: 2", 2),
        ("Judgment: 1\nbut then\nJudgment: 0", 0),
        ("Judgment: 4", None),  # there are four: 0 to 3
        ("Judgment: 1 ... Judgment: 9", None),
        ("Judgment: [1]", None),  # upstream's expression has no bracket
        ("judgment: 1", None),
        ("Judgment:  1", None),
        ("Judgment: -1", None),
        ("Judgment: 2.5", 2),
        ("Judgment: " + "1" * 5000, None),
        ("", None),
    ],
)
def test_judgment(text: str, index: int | None) -> None:
    assert judgment(text, 4) == index


def test_one_group_needs_no_question() -> None:
    for answer in ("5", None):
        ours = samples(answer, answer, answer)
        assert {question(MODE, "p", ours, 0, "b/1", number) for number in range(64)} == {None}
        found = conclusion(MODE, ours, 0, "b/1", 3, "Judgment: 2")
        assert found == {"candidates": [0], "picked": 0, "answer": answer, "asked": False, "judgment": None}


def test_the_pick_is_the_named_sample() -> None:
    ours, orders = samples("5", "6", "5", None), set()
    for number in range(20):
        asked = question(MODE, "What?", ours, 7, "b/1", number)
        found = conclusion(MODE, ours, 7, "b/1", number, "so\nJudgment: 1")
        assert sorted(found["candidates"]) == [0, 1, 2, 3] and found["judgment"] == 1 and found["asked"]
        assert found["picked"] == found["candidates"][1] and found["answer"] == ours[found["picked"]].answer
        shown = "".join(f"Solution {n}:\ns{place}\n\n" for n, place in enumerate(found["candidates"]))
        assert asked and f"Problem: What?\n\nSolutions:\n{shown}\n\nEvaluation" in asked
        orders.add(tuple(found["candidates"]))
    assert len(orders) > 5, "each comparison has an order of its own"


def test_without_a_judgment_the_pick_is_random_and_the_same_again() -> None:
    ours = samples("5", "6", "7", None)

    def picks(seed: int, name: str) -> list[dict[str, object]]:
        texts = ("I cannot say", "Judgment: 4")
        return [conclusion(MODE, ours, seed, name, number, texts[number % 2]) for number in range(64)]

    first = picks(3, "b/1")
    assert first == picks(3, "b/1") and {pick["judgment"] for pick in first} == {None}
    assert {pick["picked"] for pick in first} == {0, 1, 2, 3}
    for other in (picks(4, "b/1"), picks(3, "b/2")):
        assert [pick["candidates"] for pick in first] != [pick["candidates"] for pick in other]


def test_there_must_be_something_to_compare() -> None:
    with pytest.raises(ValueError, match="there are no solutions"):
        question(MODE, "p", [], 0, "b/1", 0)
