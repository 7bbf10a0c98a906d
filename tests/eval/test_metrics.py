"""Measures with values worked out by hand, and letters that people would read."""

import time

import pytest

from sft.eval import letters, metrics


@pytest.mark.parametrize(
    "text,form",
    [
        ("The  Denver, Broncos!", "denver broncos"),
        ("a an the", ""),
        ("An apple a-day", "apple aday"),  # punctuation takes precedence over the articles
        ("Theatre", "theatre"),
        ("“Quoted”", "“quoted”"),  # ASCII punctuation only
        ("1,234.5", "12345"),
    ],
)
def test_squad_form(text: str, form: str) -> None:
    assert metrics.normalize(text) == form


@pytest.mark.parametrize(
    "prediction,labels,em,f1,rouge",
    [
        (" Denver Broncos", ["Denver Broncos"], 1, 1, 1),
        ("the broncos", ["Denver Broncos"], 0, 2 / 3, 1 / 2),  # 1 common of 1 and 2; ROUGE keeps "the"
        ("Denver Broncos won it", ["Denver Broncos"], 0, 2 * 2 / 6, 2 * 2 / 6),
        ("Broncos Denver", ["Denver Broncos"], 0, 1, 1 / 2),  # a bag of words has no order, a subsequence has
        ("running cats", ["run cat"], 0, 0, 1),  # ROUGE stems
        ("", [""], 1, 0, 0),  # no overlap, although equal
        ("five", ["5", "five", "the number five"], 1, 1, 1),  # the best label
        ("cat cat", ["cat"], 0, 2 / 3, 2 / 3),  # a word counts as often as both have it
        ("x", ["y"], 0, 0, 0),
    ],
)
def test_measures(prediction: str, labels: list[str], em: float, f1: float, rouge: float) -> None:
    scores = metrics.answer_scores(prediction, labels)
    assert scores == pytest.approx({"exact_match": em, "f1": f1, "rougeL": rouge})


def test_each_measure_takes_its_own_best_label() -> None:
    scores = metrics.answer_scores("the red fox", ["red fox", "the red box fox"])
    assert scores["exact_match"] == 1 and scores["f1"] == 1
    assert scores["rougeL"] == pytest.approx(2 * 3 / 7)  # 4/5 with the first label, 6/7 with the second


# text, our letter, the tutorial's
LETTERS = [
    ("The final answer is B", "B", "B"),
    ("The final answer is B.", "B", "B"),
    ("The final answer is **B**", "B", None),
    ("The final answer is (C).", "C", None),
    ("The final answer is [D]", "D", None),
    ("The final answer is [the_answer_letter]", None, None),
    ("The final answer is $\\boxed{C}$", "C", None),
    ("The final answer is \\boxed{\\text{C}}.", "C", None),
    ("Thus \\boxed{\\textbf{(A)}}", "A", None),
    ("\\boxed{B. 4 m/s}", "B", None),
    ("\\boxed{42}", None, None),
    ("The final answer is: B", "B", None),
    ("**Final Answer**: B", "B", None),
    ("**Final Answer:**\n\nB", "B", None),
    ("Answer: b", "B", None),
    ("the answer is b.", "B", None),
    ("THE FINAL ANSWER IS d", "D", None),
    ("The answer is a matter of taste", None, None),
    ("The final answer is Definitely", None, "D"),
    ("The final answer is Definitely C", "C", "D"),
    ("The final answer is D-glucose", None, "D"),
    ("The final answer is D'Alembert's", None, "D"),
    ("The correct answer is therefore option (B), 4 m.", "B", None),
    ("The correct choice is A because it is.", "A", None),
    ("The final answer is A. Wait, no: the final answer is B", "B", "A"),
    ("The final answer is A. Wait. The final answer is B", "B", "A"),
    ("Not \\boxed{A}. The final answer is (B)", "B", None),
    ("The answer is not B", None, None),
    ("The answer is A or B", None, None),
    ("The answer is A, B and C", None, None),
    ("Option C is correct.", "C", None),
    ("Hence (C) is the correct answer", "C", None),
    ("The final answer is A; note that B is correct for x = 0.", "A", "A"),
    ("B", "B", None),
    ("(c)", "C", None),
    ("Reasons.\n\n**D**", "D", None),
    ("B. Mitochondria", "B", None),
    ("A. First\nB. Second", None, None),  # the choices again, and no answer
    ("", None, None),
    ("I do not know", None, None),
    ("<think>The final answer is A</think>The final answer is C", "C", "A"),
    ("<think>a</think> The final answer is B <think>b</think> The final answer is (C)", "C", "B"),
    ("<think>The final answer is A, I am sure", None, "A"),  # cut off while thinking
    ("<think>x</think>The final answer is A<think>hm", None, "A"),
    ("</think>The final answer is A", "A", "A"),
    ("The answer - C", "C", None),
    ("Answer = D", "D", None),
    ("The answer is C\n\nAsk again if you like.", "C", None),
]


@pytest.mark.parametrize("text,ours,theirs", LETTERS)
def test_letters(text: str, ours: str | None, theirs: str | None) -> None:
    assert letters.letter(text) == ours
    assert letters.published_letter(text) == theirs


@pytest.mark.parametrize(
    "text,theirs",
    [
        ("The answer is (B).", "B"),
        ("The answer is (B)", "B"),  # the bracket is the one character more
        ("The answer is B.", "B"),
        ("The answer is B", None),  # there is none after it
        ("The final answer is b.", "B"),
        ("the answer is **C**, I think.", None),
        ("The answer: D.", "D"),
        ("The final answer: A!", "A"),
        ("The answer is A.\nNo: the answer is B.", "A"),  # the first
        ("<think>The answer is A.</think>The answer is C.", None),  # of the whole line
        ("The answer is E.", None),
        ("\\boxed{B}", None),
        ("", None),
    ],
)
def test_the_letter_of_lm_evaluation_harness(text: str, theirs: str | None) -> None:
    assert letters.harness_letter(text) == theirs


@pytest.mark.parametrize(
    "text,thinks,rest",
    [
        ("<think>x</think>y", True, "y"),
        ("y", False, "y"),
        ("<think>x", False, None),
        ("x</think>y", False, "y"),
        ("<think>x</think>y<think>z", True, None),
        ("<think>\n</think>", True, ""),
    ],
)
def test_thoughts(text: str, thinks: bool, rest: str | None) -> None:
    assert metrics.thinks(text) is thinks and metrics.answer_part(text) == rest


def test_rows_of_scores() -> None:
    scores = {"baseline": {"mmlu": {"on": {"n": 1}, "off": {"n": 2}}}, "trained": {"squad": {"plain": {"n": 3}}}}
    assert metrics.score_rows(scores) == [
        ("baseline", "mmlu", "on", {"n": 1}),
        ("baseline", "mmlu", "off", {"n": 2}),
        ("trained", "squad", "plain", {"n": 3}),
    ]


@pytest.mark.parametrize("part", ["*", " ", "\n", "(", "**B ", "answer ", "answer is ", "A is ", "\\boxed{", "the "])
def test_a_long_degenerate_answer_takes_no_long_time(part: str) -> None:
    start = time.process_time()
    letters.letter("The final answer is " + part * 20000)
    letters.harness_letter("The final answer is " + part * 20000)
    assert time.process_time() - start < 2
