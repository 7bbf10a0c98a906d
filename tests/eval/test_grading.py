"""The rules of comparison, and the processes that they run in: no answer is lost, whatever it is."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError

import pytest

from sft.eval.grading import expression, pool, release, rules, today
from sft.eval.grading.pool import Grader, Verdict
from sft.eval.grading.values import correct
from sft.lib.errors import Failure

# expected, answer, and the verdicts of: the release, today's NeMo-Skills, ours. The first two come from upstream's own
# files, 0f7bd733 with antlr 4.11 and 8b18f399.
TABLE = [
    ("50\\%", "0.5", True, False, True),
    ("0.5", "50\\%", True, False, True),
    ("B", "B. 12", True, True, True),
    ("B", "C. 12", False, False, False),
    ("C", "The answer is C", False, True, True),
    ("B", "\\textbf{(B)}", True, True, True),
    ("B", "b", True, False, True),
    ("90", "90°", False, False, True),
    ("90", "90^\\circ", True, True, True),
    ("AB", "BA", False, False, False),
    ("xy", "yx", False, False, True),
    ("Yes", "yes", True, False, True),
    ("025", "25", True, False, True),
    ("3,5", "\\{3,5\\}", False, True, True),
    ("(3,5)", "3,5", True, True, True),
    ("(1,2)", "(2,1)", False, False, False),
    ("1,2", "2,1", False, True, True),
    ("$98,118,122,142$", "\\{98,118,122,142\\}", False, False, True),
    ("\\emptyset", "\\varnothing", False, False, True),
    ("(-\\infty,1]", "x\\le 1", False, False, True),
    ("(-\\infty,1]", "x<1", False, False, False),
    ("[0,1)", "0\\le x<1", False, False, True),
    ("[0,1]", "[0,1)", True, False, False),
    ("1/3", "0.33333333", True, True, True),
    ("1/3", "0.33333", True, False, False),
    ("1/3", "0.333", False, False, False),
    ("1000", "1\\,000", True, False, True),
    ("1,000", "1000", True, True, True),
    ("70", "70 \\pmod{1000}", False, False, True),
    ("70", "71 \\pmod{1000}", False, False, False),
    ("i", "\\sqrt{-1}", False, False, True),
    ("2+3i", "2+3\\sqrt{-1}", False, False, True),
    ("5", "5 cm", True, True, True),
    ("5", "x=5", False, True, True),
    ("5", "", False, False, False),
    ("10000", "10001", True, False, False),
    ("7", "700", True, False, False),
    ("7", "0.07", True, False, False),
    ("1000000", "10^6", False, True, True),
    ("$3 \\sqrt{6}$.", "3\\sqrt6", True, True, True),
    ("\\frac{1}{2004!}", "\\frac{1}{2006!}", True, True, False),
    ("-3", "\u22123", False, True, True),
]


@pytest.mark.parametrize("gold,answer,published,now,ours", TABLE)
def test_the_three_rules(gold: str, answer: str, published: bool, now: bool, ours: bool) -> None:
    assert (release.equal(gold, answer), today.equal(gold, answer), correct(gold, answer)) == (published, now, ours)
    for name in rules.RULES:  # what is told at once is what the rule says
        assert rules.rule_named(name)(gold, answer) == rules.RULES[name](gold, answer), name


def forms(answer: int) -> tuple[list[str], list[str]]:
    """(as right, as wrong) twenty ways to write the answer to a problem of AIME."""
    right = [
        *(f"{answer}", f" {answer} ", f"{answer}.", f"${answer}$", f"\\({answer}\\)", f"{answer}.0", f"0{answer}"),
        *(f"\\text{{{answer}}}", f"\\mathbf{{{answer}}}", f"{answer}^\\circ", f"{answer}\\text{{ cm}}", f"x={answer}"),
        *(f"\\frac{{{2 * answer}}}{{2}}", f"\\dfrac{{{answer}}}{{1}}", f"{3 * answer}/3", f"({answer})", f"+{answer}"),
        *(f"{answer - 1}+1", f"\\sqrt{{{answer * answer}}}", f"{answer} \\pmod{{1000}}"),
    ]
    wrong = [
        *(
            f"{answer + 1}",
            f"-{answer}",
            f"{answer}{answer}",
            f"{answer}.5",
            f"\\frac{{{answer}}}{{2}}",
            f"\\sqrt{{{answer}}}",
        ),
        *(f"{answer}x", f"{answer}+1", f"{answer}, {answer + 1}", f"x={answer + 2}", f"{answer}!", f"10^{{{answer}}}"),
        *(
            f"{answer}i",
            "\\text{no answer}",
            "",
            "\\infty",
            f"\\frac{{1}}{{{answer}}}",
            f"{answer} \\text{{ or }} {answer + 3}",
        ),
        *(f"({answer}, {answer})", f"{answer}\\pi"),
    ]
    return right, wrong


# The answers of AIME 2024 I, in the order of its problems.
AIME = [204, 25, 809, 116, 104, 294, 540, 197, 480, 113, 371, 385, 110, 721, 23]


@pytest.fixture(scope="module")
def ours() -> Iterator[Grader]:
    with Grader("values", 2) as grader:
        yield grader


@pytest.mark.parametrize("answer", AIME)
def test_twenty_right_and_twenty_wrong_forms_of_a_whole_answer(ours: Grader, answer: int) -> None:
    right, wrong = forms(answer)
    assert len(set(right)) == len(set(wrong)) == 20
    verdicts = ours.verdicts([(str(answer), form) for form in right + wrong])
    found = {form for form, verdict in zip(right + wrong, verdicts, strict=True) if verdict.correct}
    assert found == set(right)


# Of word problems: dollars, shares, thousands, decimals.
MONEY = {
    "18": (
        ["18", "\\$18", "$18", "18.00", "\\$18.00", "18 \\text{ dollars}", "\\text{18}", "18.0", "x = 18"],
        ["1.8", "18.5"],
    ),
    "1080": (
        ["1080", "1,080", "1{,}080", "1\\,080", "1080.0", "\\$1,080", "1,080 \\text{ eggs}"],
        ["1,08", "108", "10,80"],
    ),
    "0.5": (["0.5", ".5", "\\frac{1}{2}", "1/2", "0.50", "\\frac12", "50\\%"], ["5", "0.05", "\\frac{1}{3}"]),
    "20": (["20", "20\\%", "20 \\%", "20%", "20.0\\%"], ["2", "200\\%", "0.02"]),
    "-38": (["-38", "\u221238", "- 38", "-38.0", "-\\frac{76}{2}"], ["38", "-3.8"]),
}


@pytest.mark.parametrize("gold", MONEY)
def test_forms_of_answers_to_word_problems(ours: Grader, gold: str) -> None:
    right, wrong = MONEY[gold]
    verdicts = ours.verdicts([(gold, form) for form in right + wrong])
    assert [v.correct for v in verdicts] == [True] * len(right) + [False] * len(wrong), list(
        zip(right + wrong, verdicts, strict=True)
    )


# --- where an answer is taken from -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text,strict,ours",
    [
        ("\\boxed{7}", "7", "7"),
        ("\\boxed {7}", None, "7"),
        ("\\boxed7", None, "7"),
        ("\\boxed{1} and \\boxed{2}.", "2", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "\\frac{1}{2}"),
        ("\\boxed{7}, in \\boxed as asked", None, "7"),
        ("\\boxed{1} \\boxed{2", None, None),
        ("\\fbox{7}", None, None),
        ("7", None, None),
        ("", None, None),
    ],
)
def test_where_an_answer_is_taken_from(text: str, strict: str | None, ours: str | None) -> None:
    assert rules.EXTRACT["strict"](text) == strict and rules.EXTRACT["boxed"](text) == ours


# --- what is not arithmetic ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text,value",
    [("1/2", "1/2"), ("5!", "120"), ("10^6", "12"), ("sqrt(2)*pi", "sqrt(2)*pi"), ("0.[3]", "1/3"), ("-x+1", "1 - x")],
)
def test_plain_expressions(text: str, value: str) -> None:
    assert str(expression.evaluated(text)) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch canary')",
        'exec(\'open("canary", "w")\')',
        "open('canary', 'w')",
        'sympify(\'open("canary","w")\')',
        "(1).__class__.__bases__",
        "[x for x in (1,)]",
        "lambda: 1",
        "Symbol.__init__",
        "sqrt(4, evaluate=1)",
        "9**9**9**9",
        "factorial(100000000)",
        "2**1000000000",
    ],
)
def test_an_answer_is_no_program(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, SyntaxError, TokenError)):
        expression.evaluated(text)
    assert not release.equal("nothing", text) and not list(tmp_path.iterdir())


# --- the processes -----------------------------------------------------------------------------------------------

N = "9" * 1900
HOSTILE = [
    *(
        "9^{9^{9^{9}}}",
        "9^{9^{9^{9^{9}}}}",
        "7^{10^9}",
        "2^{2^{100}}",
        "(10^{10})!",
        "10^{10}!",
        "100000000!",
        "((9!)!)!",
    ),
    *(
        "\\binom{10^9}{5\\cdot 10^8}",
        "\\binom{10^{30}}{10^{15}}",
        "1/0",
        "0^0",
        "\\frac{1}{0}",
        "\\infty-\\infty",
        "\\log 0",
    ),
    *("{" * 5000, "(" * 5000, "}" * 5000, "\\frac{" * 2000, "\\sqrt{" * 90 + "2" + "}" * 90, "\\left(" * 300),
    *("\\frac{1}{" * 90 + "1" + "}" * 90, "(" * 99 + "1" + ")" * 99, "[" * 101 + "]" * 101),
    *(N, f"0.{N}", f"{N}/{N}", f"{N}^{{{N[:50]}}}", "1" * 1_000_000, "x" * 1_000_000, "x" * 1900, "+".join("x" * 900)),
    "\\begin{pmatrix}" + "\\\\".join("&".join("1" * 20) for _ in range(20)) + "\\end{pmatrix}",
    *("\\int_0^1 x^x dx", "\\int e^{e^{e^x}} dx", "\\int_{-\\infty}^{\\infty} e^{-x^2}\\sin(x^x) dx"),
    *("\\sum_{n=1}^{\\infty} \\frac{1}{n^n}", "\\sum_{n=1}^{10^{12}} \\frac{1}{n}", "\\prod_{n=1}^{10^{9}} n"),
    *(
        "\\lim_{x\\to 0} x^{x^{x^x}}",
        "\\frac{d}{dx} x^{x^{x^{x^x}}}",
        "\\gcd(10^{1000}, 3)",
        "\\lfloor 10^{10^{10}} \\rfloor",
    ),
    *(
        "\\sin(10^{10^{10}})",
        "\\sin(\\sin(\\sin(x)))^{100}",
        "(x+y+z)^{500}",
        "(1+x)^{1000}(1-x)^{1000}",
        "x^{1000000}-1",
    ),
    *("a\x00b", "\ud800", "\u202e7", "\n" * 1900, "$" * 1900, "\\boxed{\\boxed{7}}", "\\text{" * 99 + "}" * 99),
]


@pytest.mark.parametrize("rule", ["release", "values", "today"])
@pytest.mark.slow
def test_hostile_answers(rule: str) -> None:
    """55 and more, each once beside a right answer: nothing is lost, nothing hangs, and what is right stays right."""
    assert len(set(HOSTILE)) >= 55
    pairs = [
        pair for bad in HOSTILE for pair in (("\\frac{7}{12}", bad), (f"\\frac{{{len(bad)}}}{{7}}", f"{len(bad)}/7"))
    ]
    with Grader(rule, 2, seconds=1) as grader:
        verdicts = grader.verdicts(pairs)
    assert len(verdicts) == len(pairs)
    assert not any(verdict.correct for verdict in verdicts[::2])
    assert all(verdict.correct for verdict in verdicts[1::2])


@pytest.fixture
def stubborn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The worker, with a rule that does to it what the answer says."""
    text = pool.WORKER.read_text()
    text = text.replace("Path(__file__).resolve().parents[3]", repr(str(pool.WORKER.parents[3])), 1)
    text = text.replace(
        "    rule = RULES[sys.argv[1]]",
        """    import time

    def rule(gold, answer):
        if answer == "hang":
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            while True:
                pass
        if answer == "sleep":
            while True:
                time.sleep(1)
        if answer == "eat":
            return len([bytes(1 << 28) for _ in range(1 << 20)])  # never touched: a page takes time
        if answer == "deep":
            def down(n): return down(n + 1)
            return down(0)
        if answer == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        if answer == "quit":
            os._exit(0)
        if answer == "raise":
            raise ValueError("x")
        if answer == "noise":
            print("[9, true, 'rule']", flush=True)
        return gold in answer""",
    )
    path = tmp_path / "worker.py"
    path.write_text(text)
    monkeypatch.setattr(pool, "WORKER", path)
    return path


@pytest.mark.slow
def test_what_hangs_eats_or_dies_loses_no_answer(stubborn: Path) -> None:
    bad = {
        "hang": "time",
        "sleep": "time",
        "eat": "memory",
        "deep": "recursion",
        "die": "crash",
        "quit": "crash",
        "raise": "ValueError",
    }
    pairs = [pair for word in [*bad, "noise"] for pair in ((f"g{word}", word), (f"g{word}", f"g{word} right"))]
    start = time.monotonic()
    with Grader("values", 2, seconds=2, memory=1 << 30) as grader:
        verdicts = dict(zip(pairs, grader.verdicts(pairs), strict=True))
    assert time.monotonic() - start < 60
    for word, how in bad.items():
        assert verdicts[f"g{word}", word] == Verdict(False, how), word
        assert not verdicts[f"g{word}", word].decided
    assert verdicts["gnoise", "noise"] == Verdict(False, "rule"), "what a library prints is no verdict"
    assert all(verdict == Verdict(True, "rule") for pair, verdict in verdicts.items() if pair[1].endswith("right"))
    assert pool.undecided(verdicts.values()) == {"time": 2, "memory": 1, "recursion": 1, "crash": 2, "ValueError": 1}


def test_a_pair_is_compared_once(stubborn: Path, tmp_path: Path) -> None:
    stubborn.write_text(
        stubborn.read_text().replace(
            "        return gold in answer",
            f"        open({str(tmp_path / 'calls')!r}, 'a').write(answer + '\\n')\n        return gold in answer",
        )
    )
    with Grader("values", 2) as grader:
        first = grader.verdicts([("g", "g b"), ("g", "c"), ("g", "g b")] * 5)
        again = grader.verdicts([("g", "c"), ("g", None), ("g", "g")])
    assert [verdict.correct for verdict in first] == [True, False, True] * 5
    assert again == [Verdict(False, "rule"), Verdict(False, "no answer"), Verdict(True, "literal")]
    calls = (tmp_path / "calls").read_text().split()
    assert sorted(call for call in calls if call != "0.25") == ["b", "c", "g"]  # that one is each worker's own


def test_a_worker_that_cannot_start_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "worker.py"
    path.write_text("import no_such_module")
    monkeypatch.setattr(pool, "WORKER", path)
    with Grader("values", 1) as grader, pytest.raises(Failure, match="did not start; try"):
        grader.verdicts([("x+1", "1+x")])


def test_an_idle_worker_that_is_killed_is_replaced() -> None:
    with Grader("today", 1) as grader:
        assert grader.verdicts([("x+1", "1+x")])[0].correct
        child = grader.running[0].child.pid
        os.kill(child, signal.SIGKILL)
        time.sleep(0.2)
        assert grader.verdicts([("x+2", "2+x"), ("x+3", "3+x")]) == [Verdict(True, "rule")] * 2
        assert grader.running[0].child.pid != child
        last = grader.running[0].child
    assert last.poll() is not None, "none outlives the block"


def test_whole_numbers_take_no_process() -> None:
    with Grader("today", 2) as grader:
        verdicts = grader.verdicts([("7", "7"), ("7", "8"), ("7", "07"), ("x", "x"), ("7", None), ("7", " ")])
        assert not grader.running
    assert [verdict.correct for verdict in verdicts] == [True, False, False, True, False, False]


def test_bounds() -> None:
    assert rules.at_once("today", "x", "y" * 2001) == (False, "over 2,000 characters")
    assert rules.at_once("today", "y" * 3000, "y" * 3000) == (True, "literal")
    assert rules.at_once("values", "x", "(" * 101 + ")" * 101) == (False, "over 100 brackets in each other")
    assert rules.at_once("values", "x", "(" * 100 + ")" * 100) is None
    assert json.dumps(rules.at_once("release", "100", "10000")) == '[true, "literal"]'
