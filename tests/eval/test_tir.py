"""The loop of code calls, with a scripted model and the real sandbox: exact transcripts in the release's texts."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import missing
from sft.data.openmath import code_executions, frame
from sft.eval.modes.tir import Completion, Prompt, code_of, generate
from sft.eval.protocols.read import Code, protocol
from sft.eval.sandbox.jail import Limits, find_python, isolation, open_jail
from sft.eval.sandbox.session import Session

VENV = Path(os.environ.get("SANDBOX_VENV") or Path(os.environ.get("VENV", sys.prefix)) / "sandbox")
END = "</tool_call>"


def code_rules(name: str) -> Code:
    code = protocol(name).mode("tir").code
    assert code
    return code


PUBLISHED, NOW = code_rules("published"), code_rules("today")


@pytest.fixture
def session() -> Iterator[Session]:
    if not (VENV / "PINS").is_file():
        missing(f"{VENV} is not there; run: scripts/sandbox.sh")
    if isolation(find_python(VENV)).level != "strong":
        missing(isolation(find_python(VENV)).reason)
    with Session(open_jail(VENV, limits=Limits(memory=1 << 30)), timeout=20) as session:
        yield session


class Model:
    """Says its lines in turn. A line that ends in the end tag stopped there, and is given without it, as vLLM does."""

    def __init__(self, *lines: str | Completion, tokens: int = 10):
        self.lines, self.tokens = list(lines), tokens
        self.asked: list[tuple[Prompt, tuple[str, ...], int]] = []

    def __call__(self, prompt: Prompt, stop: Sequence[str], max_tokens: int) -> Completion:
        self.asked.append((list(prompt) if isinstance(prompt, list) else prompt, tuple(stop), max_tokens))
        line = self.lines[len(self.asked) - 1]
        if isinstance(line, Completion):
            return line
        if line.endswith(END):
            return Completion(line.removesuffix(END), self.tokens, "stop", END)
        return Completion(line, self.tokens, "stop", "")


def left(count: int) -> str:
    return (
        f"```system\nRemaining code executions: {count}. You will not be able to call code when you run out of "
        "executions, so use it wisely. Note that you can still continue solving the problem without code after that."
        "\n```\n"
    )


OUT = (
    "```system\nYou have run out of code executions! You can no longer write or execute code. Now you should continue "
    "solving the problem by relying on your mathematical reasoning and analytical skills.\n```\n"
)


def call(code: str) -> str:
    return f"<tool_call>\n{code}{END}"


def test_a_whole_transcript(session: Session) -> None:
    """Calls that print, fail, are cut, hang, die and keep state, until none is left; then a turn that is not run."""
    lines = [
        "<think>\nLet me see.\n" + call("x = 6\nprint(x * 7)\n"),
        "Hm.\n" + call("1/0\n"),
        call("x\n"),
        call("print('y' * 1001)\n"),
        call("while True: pass\n"),
        call("import os; os._exit(1)\n"),
        call("x + 1\n"),
        call("# nothing\n"),
        "So it is\n" + call("print('not run')\n"),
    ]
    session.timeout = 2.0
    model = Model(*lines)
    found = generate(model, session, "<prompt>", 1000, PUBLISHED)
    expected = (
        f"{lines[0]}\n```output\n42\n```\n{left(7)}"
        f"{lines[1]}\n```output\nTraceback (most recent call last):\n    1/0\nZeroDivisionError: division by zero\n"
        f"```\n{left(6)}"
        f"{lines[2]}\n```output\n6\n```\n{left(5)}"
        f"{lines[3]}\n```output\n{'y' * 1000}<output cut>\n```\n{left(4)}"
        f"{lines[4]}\n```output\nTimed out\n```\n{left(3)}"
        f"{lines[5]}\n```output\nTimed out\n```\n{left(2)}"
        f"{lines[6]}\n```output\n7\n```\n{left(1)}"
        f"{lines[7]}\n```output\n```\n{OUT}"
        f"{lines[8]}"
    )
    assert found["generation"] == expected
    turns = found["turns"]
    assert [turn.get("status") for turn in turns] == ["ok", "error", "ok", "ok", "timeout", "dead", "ok", "ok", None]
    assert turns[0]["code"] == "x = 6\nprint(x * 7)\n" and turns[0]["output"] == "42\n"
    assert [turn["timed_out"] for turn in turns[:8]] == [False] * 4 + [True] + [False] * 3
    assert 2 <= turns[4]["seconds"] < 60 and turns[6]["replayed"] == 3, "x = 6, x and the long print"
    assert "code" not in turns[8]
    assert (found["calls"], found["timeouts"], found["tokens"], found["counted"]) == (8, 1, 90, 80)
    assert not found["truncated"] and found["code_seconds"] >= 2
    # Each turn was asked with all that was there, the tag as the one stop, and the budget less what was generated.
    assert [most for _, _, most in model.asked] == [1000 - 10 * n for n in range(9)]
    assert {stop for _, stop, _ in model.asked} == {(END,)}
    assert model.asked[-1][0] == "<prompt>" + expected.removesuffix(lines[8])
    # The data's own reader finds the budget of calls in it.
    assert code_executions(found["generation"]) == 8


def test_a_turn_without_code_ends_it(session: Session) -> None:
    found = generate(Model("The answer is \\boxed{4}."), session, "p", 100, PUBLISHED)
    assert (found["generation"], found["calls"], len(found["turns"])) == ("The answer is \\boxed{4}.", 0, 1)
    assert session.process is None, "no session is started for nothing"


def test_the_budget_is_of_generated_tokens(session: Session) -> None:
    """30 of 30 are used after three turns: the third one's code is not run, and nothing more is asked."""
    model = Model(call("1\n"), call("2\n"), call("3\n"), "never")
    found = generate(model, session, "p", 30, PUBLISHED)
    assert [most for _, _, most in model.asked] == [30, 20, 10]
    assert found["generation"] == f"{call('1' + chr(10))}\n```output\n1\n```\n{left(7)}" + (
        f"{call('2' + chr(10))}\n```output\n2\n```\n{left(6)}" + call("3\n")
    )
    assert (found["calls"], found["truncated"]) == (2, True)


def test_a_cut_turn_is_truncated_and_not_run(session: Session) -> None:
    for rules in (PUBLISHED, NOW):
        found = generate(Model(Completion("<tool_call>\nprint(1", 50, "length")), session, "p", 50, rules)
        assert (found["calls"], found["truncated"]) == (0, True)


def test_an_open_block_where_the_engine_does_not_tell_its_stop(session: Session) -> None:
    """8b18f39 code_execution.py:160-163: one more begin than ends means that the stop was the end tag."""
    made = Completion("<tool_call>\nprint(5)\n", 9, "stop", None)
    found = generate(Model(made, "done"), session, "p", 100, PUBLISHED)
    assert found["generation"] == f"<tool_call>\nprint(5)\n</tool_call>\n```output\n5\n```\n{left(7)}done"


def test_an_open_block_at_the_end_of_the_turn(session: Session) -> None:
    """The release left it open; today's code closes and runs it."""
    made = Completion("<tool_call>\nprint(5)\n", 9, "stop", "")
    assert generate(Model(made), session, "p", 100, PUBLISHED)["generation"] == made.text
    found = generate(Model(made, "done"), session, "p", 100, NOW)
    assert found["generation"].startswith("<tool_call>\nprint(5)\n</tool_call>\n```output\n5\n") and found["calls"] == 1


@pytest.mark.parametrize(
    "text, code",
    [
        ("<tool_call>\nx\n</tool_call>", "x\n"),
        ("a<tool_call>\nx\n</tool_call>b<tool_call>\ny\n</tool_call>", "y\n"),
        ("<tool_call>\nx\n<tool_call>\ny\n</tool_call>", "y\n"),
        ("<tool_call>\nx\n</tool_call> and </tool_call>", None),
        ("</tool_call>", None),
        ("<tool_call>x</tool_call>", None),  # the release's tag has a newline
        ("<tool_call>\nx\n</tool_call> then", None),
        ("no code", None),
    ],
)
def test_what_is_code(text: str, code: str | None) -> None:
    assert code_of(text, PUBLISHED) == code


def test_todays_tag_needs_no_newline() -> None:
    assert code_of("<tool_call>x</tool_call>", NOW) == "x"


def test_engines_that_give_the_tag_or_its_newline(session: Session) -> None:
    """Whatever an engine leaves in the text, the transcript is the same."""
    expected = f"{call('7' + chr(10))}\n```output\n7\n```\n{left(7)}done"
    for text in ("<tool_call>\n7\n", call("7\n"), call("7\n") + "\n"):
        found = generate(Model(Completion(text, 5, "stop", END), "done"), session, "p", 100, PUBLISHED)
        assert found["generation"] == expected, text


def test_a_model_that_is_not_told_how_many_are_left(session: Session) -> None:
    """As 14B-Kaggle: no system block, another number of calls."""
    kaggle = replace(PUBLISHED, calls=1, told=False)
    found = generate(Model(call("7\n"), call("8\n")), session, "p", 100, kaggle)
    assert found["generation"] == f"{call('7' + chr(10))}\n```output\n7\n```\n" + call("8\n")


def test_tokens_are_kept_as_they_were_generated(session: Session) -> None:
    """The engine sees its own tokens again, not what its text would be encoded to."""

    def encode(text: str) -> list[int]:
        return [ord(letter) for letter in text]

    made = Completion("<tool_call>\n7\n", 3, "stop", END, [900, 901, 902])
    whole = Completion(call("8\n"), 4, "stop", END, [903, 904, 905, 151658])
    model = Model(made, whole, "done")
    generate(model, session, "p", 100, PUBLISHED, encode=encode)
    block = f"\n```output\n7\n```\n{left(7)}"
    assert model.asked[0][0] == [ord("p")]
    second = [ord("p"), 900, 901, 902, *encode(END), *encode(block)]
    assert model.asked[1][0] == second
    assert model.asked[2][0] == [*second, 903, 904, 905, 151658, *encode(f"\n```output\n8\n```\n{left(6)}")]


def test_a_generation_has_a_time_limit_today(session: Session) -> None:
    """14,400 s (8b18f39 nemo_skills/inference/generate.py:69): the turn that is under way ends, no other begins."""
    times = iter([0.0, 0.0, 0.0, 14_401.0, 14_401.0])
    model = Model(call("7\n"), "never")
    found = generate(model, session, "p", 100, NOW, clock=lambda: next(times))
    assert len(model.asked) == 1 and found["truncated"] and found["calls"] == 1


def test_the_rules_fit_the_prompt_that_was_trained() -> None:
    before, after = frame("tir", PUBLISHED.calls)
    assert "up to 8 Python code calls" in before and after.endswith("<|im_start|>assistant\n")
    assert PUBLISHED.left.startswith("Remaining code executions: {n}. ")
