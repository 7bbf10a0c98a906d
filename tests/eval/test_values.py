"""Grades: pairs of answers, each with what a mathematician says of it."""

import pytest

from sft.eval.grading.values import boxed, correct

EQUAL = [
    (r"\frac{1}{2004!}", r"1/2004!"),
    (r"2^{-99}", r"\frac{1}{2^{99}}"),
    (r"2^{100}", r"1267650600228229401496703205376"),
    (r"1-\frac{1}{e}", r"\frac{e-1}{e}"),
    (r"1,2,\ldots,n", r"1, 2, \dots, n"),
    (r"1,2,...,n", r"1,2,\cdots,n"),
    (r"\sqrt{\frac{1}{n}}", r"\frac{1}{\sqrt{n}}"),
    (r"\frac{1}{\sqrt{n}}", r"\sqrt{1/n}"),
    (r"\sqrt{\frac{a}{b}}", r"\frac{\sqrt{a}}{\sqrt{b}}"),
    (r"\emptyset", r"\varnothing"),
    (r"\varnothing", r"\varnothing"),
    (r"\varnothing", r"∅"),
    (r"\varnothing", r"\{\}"),
    (r"-3", "\u22123"),
    (r"x-3", "x\u22123"),
    (r"-\frac12", "\u2013\\frac{1}{2}"),
    (r"0.1", r"\frac{1}{10}"),
    (r"3/4", r"75\%"),
    (r"2004!", r"2004!"),
    (r"\frac{2005}{2006!}", r"\frac{1}{2004! \cdot 2006}"),
    (r"9^{9^{9^9}}", r"9^{9^{9^9}}"),
    (r"\frac{\pi}{2}", r"\pi/2"),
    (r"\infty", r"\infty"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"x^2+2x+1", r"(x+1)^2"),
    (r"1,2,3", r"3,2,1"),
    (r"1000", r"1,000"),
    (r"\{1,2\}", r"\{2,1\}"),
    (r"x=5", r"5"),
    (r"5", r"x=5"),
    (r"(-\infty,2]", r"(-\infty, 2]"),
    (r"\sqrt{x^2}", r"|x|"),
    (r"\log_2 8", r"3"),
    (r"\binom{5}{2}", r"10"),
    (r"\frac{x^2-1}{x-1}", r"x+1"),
    (r"9", r"9\%"),
    (r"5\text{ cm}", r"5"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"90^\circ", r"90"),
    (r"(n+1)!", r"(n+1)n!"),
    (r"\lfloor 3.7\rfloor", r"3"),
    (r"1+2+\cdots+n", r"1+2+\dots+n"),
    (r"\sqrt[3]{-8}", r"-2"),
    (r"\frac{1}{\sqrt[3]{n}}", r"\sqrt[3]{\frac1n}"),
    (r"2\frac{1}{2}", r"\frac52"),
    (r"10,000", r"10000"),
]
DIFFERENT = [
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
    (r"2^{-99}", r"2^{-98}"),
    (r"2^{100}", r"1267650600228229401496703205377"),
    (r"1-\frac{1}{e}", r"1+\frac{1}{e}"),
    (r"1-e^{-1}", r"1+e^{-1}"),
    (r"1-1/e", r"1+1/e"),
    (r"1-1/\pi", r"1+1/\pi"),
    (r"1,2,\ldots,n", r"1,3,\ldots,2n-1"),
    (r"1,2,...,n", r"1,3,...,2n-1"),
    (r"2,4,...,100", r"2,5,...,100"),
    (r"\sqrt{\frac1n}", r"\frac{1}{n}"),
    (r"\varnothing", r"\{0\}"),
    (r"-3", r"3"),
    (r"10^{-20}", r"10^{-21}"),
    (r"0.3333", r"\frac{1}{3}"),
    (r"1/3", r"0.33333"),
    (r"(1,2)", r"(1,3)"),
    (r"(1,2)", r"(2,1)"),
    (r"2004!", r"2006!"),
    (r"\frac{1}{1000000!}", r"\frac{1}{1000001!}"),
    (r"9^{9^{9}}", r"9^{9^{8}}"),
    (r"\pi", r"3.14"),
    (r"\text{yes}", r"\text{no}"),
    (r"\ln 2", r"\ln 3"),
    (r"1+\frac{1}{e^2}", r"1-\frac{1}{e^2}"),
    (r"10^{-6}", r"0"),
    (r"\frac{1}{10^{50}}", r"0"),
    (r"1-\frac1e", r"1+\frac1e"),
    (r"1-\dfrac{1}{e}", r"1+\dfrac{1}{e}"),
    (r"2^{-99}n", r"2^{-98}n"),
    (r"(2^{-99},1)", r"(2^{-98},1)"),
    (r"\{2^{-99},1\}", r"\{1,2^{-98}\}"),
    (r"x=2^{-99}", r"x=2^{-98}"),
    (r"[0,10^{-30}]", r"[0,10^{-31}]"),
    (r"[0,1)", r"[0,1]"),
    (r"(-\infty,2]", r"(-\infty,3]"),
    (r"|x|", r"x"),
    (r"\sqrt{x^2}", r"x"),
    (r"\binom{5}{2}", r"11"),
    (r"1+10^{-50}", r"1+10^{-51}"),
    (r"0.333...", r"\frac{1}{3}"),
    (r"2k", r"2n"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"),
    (r"n!", r"n!+1"),
    (r"1+2+\cdots+n", r"1+3+\cdots+n"),
    (r"a_1", r"a_2"),
    (r"9^{9^9}+1", r"9^{9^9}"),
]


@pytest.mark.parametrize("expected,answer", EQUAL)
def test_what_is_equal_passes_either_way(expected: str, answer: str) -> None:
    assert correct(expected, answer) and correct(answer, expected)


@pytest.mark.parametrize("expected,answer", DIFFERENT)
def test_what_differs_fails_either_way(expected: str, answer: str) -> None:
    assert not correct(expected, answer) and not correct(answer, expected)


@pytest.mark.parametrize("answer", [None, "", "  ", "\\frac{", "\\boxed{"])
def test_what_is_no_answer_is_never_right(answer: str | None) -> None:
    assert not correct("138", answer) and not correct("", answer)


@pytest.mark.parametrize(
    "text,content",
    [
        ("\\boxed {7}", "7"),
        ("\\boxed7", "7"),
        ("\\boxed 12.", "12"),
        ("\\boxed -3.5$", "-3.5"),
        ("\\boxed\n{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{7}, which I put in \\boxed as asked.", "7"),
        ("\\boxed{7} or \\boxed 8", "8"),
        ("\\boxed{7} or \\boxed {8", None),  # cut off
        ("\\boxed", None),
    ],
)
def test_boxes_as_people_write_them(text: str, content: str | None) -> None:
    assert boxed(text) == content


@pytest.mark.parametrize(
    "text,answer",
    [
        ("no answer", None),
        ("\\boxed{1} then \\boxed{42}", "42"),
        ("\\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{1} \\boxed{2", None),  # cut off: the last one never closes
        ("\\boxed{}", ""),
    ],
)
def test_the_answer_is_the_last_box(text: str, answer: str | None) -> None:
    assert boxed(text) == answer


@pytest.mark.parametrize(
    "expected,answer,verdict",
    [
        ("138", "138", True),
        ("138", "138.0", True),
        ("0.5", "\\frac{1}{2}", True),
        ("2\\sqrt{3}", "\\sqrt{12}", True),
        ("138", "139", False),
        ("138", "", False),
        ("138", None, False),
        ("138", "\\frac{", False),
    ],
)
def test_values(expected: str, answer: str | None, verdict: bool) -> None:
    assert correct(expected, answer) is verdict
