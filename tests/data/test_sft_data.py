"""SFT data from generations: every option's effect and count, the order of rows, what is refused, and what it takes."""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import clock
from conftest import Repo, failed, ok
from sft.data.generations import arithmetic, rules
from sft.data.generations import options as generations_options
from sft.data.generations.options import parser

Row = dict[str, Any]
CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = "<|im_start|>system\nYou help.<|im_end|>\n"
MATH = "Solve the following math problem. Make sure to put the answer (and only answer) inside \\boxed{}.\n\n"


def generation(solution: str, problem: str = "p", **fields: Any) -> Row:
    return {"problem": problem, "generation": solution, "symbolic_correct": True} | fields


def write(path: Path, *rows: Row | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


class Tool:
    """sft-data as a user calls it, each time into a WORK of its own unless told otherwise."""

    def __init__(self, repo: Repo, folder: Path):
        self.repo, self.folder, self.runs = repo, folder, 0
        self.input = folder / "in.jsonl"

    def call(
        self, *options: object, work: Path | None = None, block: int | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        self.runs += 1
        self.work = work or self.folder / f"work{self.runs}"
        start: list[object] = ["python/tools/sft_data.py"]
        if block:
            program = (
                "from sft.data.generations import choose, prepare",
                "from sft.lib.errors import run",
                "from tools.sft_data import main",
                f"choose.BLOCK_BYTES = prepare.BLOCK_BYTES = {block}",
                "run(main)",
            )
            start = ["-c", "; ".join(program)]
        options = ("--name", "x", "--work", self.work, *options)
        if "--input-files" not in options and "--preprocessed-dataset-files" not in options:
            options += ("--input-files", self.input)
        return self.repo.call(sys.executable, *start, *options, **{"PYTHONPATH": str(self.repo.root / "python")} | env)

    def make(self, *options: object, **more: Any) -> list[Row]:
        """The rows that come out."""
        ok(self.call(*options, **more))
        rows = [json.loads(line) for line in self.text().splitlines()]
        done = self.done()
        assert len(rows) == done["rows"]["all"] == done["rows_read"] - sum(done["dropped"].values())
        assert sorted(p.name for p in self.result().iterdir()) == ["DONE", "all.jsonl"]
        return rows

    def result(self) -> Path:
        return self.work / "data" / "x" / "round1"

    def text(self) -> str:
        return (self.result() / "all.jsonl").read_text()

    def done(self) -> Row:
        return json.loads((self.result() / "DONE").read_text())

    def outputs(self, *options: object, **more: Any) -> list[str]:
        return [row["output"] for row in self.make("--no-shuffle", *options, **more)]


@pytest.fixture
def tool(session_repo: Repo, tmp_path: Path) -> Tool:
    return Tool(session_repo, tmp_path)


def save_tokenizer(folder: Path, template: str | None) -> Path:
    """A tokenizer with a token for every byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: n for n, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "<|im_start|>", "<|im_end|>"])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | ({"chat_template": template} if template else {}))
    )
    return folder


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizers") / "chatml", CHATML)


# --- filters -----------------------------------------------------------------------------------------------------

VERIFYING = [
    "Here is the solution. Let's verify this with Python. It should work.",
    "Here is the solution. Let's verify this using Python. It should work.",
    "First, we solve the problem. Let's confirm this with Python. Finally, we get the result.",
    "First, we solve the problem. Let's verify this solution using Python. Finally, we get the result.",
    "First, we solve the problem. Let's use Python to verify the solution. Finally, we get the result.",
    "The answer is calculated. Let's use Python to plot the results.",
]
# The cases of NeMo-Skills 8b18f39 .../config/math_sft.yaml: (filter, solution, what becomes of it; None: dropped).
UPSTREAM_CASES = [
    ("drop_multi_boxed", "He had \\boxed{3} 4090s and \\boxed{2} 4080s", None),
    ("drop_multi_boxed", "She had \\boxed{6} 4090s", "She had \\boxed{6} 4090s"),
    ("drop_multi_boxed", "boxed boxed 42", "boxed boxed 42"),
    ("remove_code_errors", "My solution:\n---Traceback (most recent call last)---\nSomething else", None),
    ("remove_code_errors", "My solution:\nSome long output<output cut>\nSomething else", None),
    ("remove_code_errors", "My solution:\nTimed out\nSomething else", None),
    ("remove_code_errors", "My solution:\n[0;31mSyntaxError\x1b\nSomething else", None),
    ("remove_code_errors", "My solution, no errors", "My solution, no errors"),
    ("remove_matplotlib", "My solution:\n---import matplotlib---\nSomething else", None),
    ("remove_matplotlib", "My solution:\nfrom matplotlib import pyplot as plt\nSomething else", None),
    ("remove_matplotlib", "My solution, no errors", "My solution, no errors"),
    ("remove_no_code", "My solution:\n---<tool_call>---\nSomething else", None),
    ("remove_no_code", "My solution:\ncode</tool_call>\nSomething else", None),
    ("remove_no_code", "<tool_call>code</tool_call>", "<tool_call>code</tool_call>"),
    ("remove_no_think_tags", "a\n---</think>---\nb", "a\n---</think>---\nb"),
    ("remove_no_think_tags", "<think>My solution:\n\nSomething else", None),
    ("remove_no_think_tags", "<think>thinking</think>summary", "<think>thinking</think>summary"),
    *(("remove_verification_code", text, None) for text in VERIFYING),
    ("remove_verification_code", "This is the correct solution.", "This is the correct solution."),
    ("trim_prefix", "My solution:\nSubtract 3 from 5", "Subtract 3 from 5"),
    ("trim_solutions", "Solution ends at \\boxed{0}\nThis line is useless.", "Solution ends at \\boxed{0}"),
    ("trim_solutions", "Solution continues \\boxed{7} after boxed", "Solution continues \\boxed{7} after boxed"),
    (
        "trim_solutions",
        "Solution\n\ncontinues \n\n\\boxed{7} after\n boxed",
        "Solution\n\ncontinues \n\n\\boxed{7} after",
    ),
    (
        "trim_solutions",
        "newlines inside \\boxed{7\n5} and properly\ncuts",
        "newlines inside \\boxed{7\n5} and properly",
    ),
    ("drop_incorrect_arithmetic", "1 + 2 + 3 + 4 = 10", "1 + 2 + 3 + 4 = 10"),
    ("drop_incorrect_arithmetic", "3 * (1 + 7) / 4 = 3 * 8 / 4 = 100", None),
    ("split_arithmetic", "1 + 2 + 3 + 4 = 10", "1 + 2 + 3 + 4 = 3 + 3 + 4 = 6 + 4 = 10"),
    ("split_arithmetic", "1 + 7 * 19 = 134", "1 + 7 * 19 = 1 + 133 = 134"),
    ("split_arithmetic", "3 * (1 + 7) / 4 = 6", "3 * (1 + 7) / 4 = 3 * 8 / 4 = 24 / 4 = 6"),
]


def filtered(name: str, row: Row, *options: object, bad: frozenset[str] = frozenset()) -> str | None:
    """What one filter makes of a row's solution."""
    arguments = parser(None).parse_args([str(o) for o in options])
    verdict = rules.FILTERS[name](arguments, set(bad))(row)
    return None if verdict == rules.DROPPED else row["generation"]


@pytest.mark.parametrize(("name", "solution", "expected"), UPSTREAM_CASES)
def test_upstreams_own_cases(name: str, solution: str, expected: str | None) -> None:
    assert filtered(name, generation(solution)) == expected


@pytest.mark.parametrize(
    ("name", "solution", "expected"),
    [
        ("drop_multi_boxed", "\\boxed{1} \\boxed{\\frac{1}{2}}", None),
        ("drop_multi_boxed", "\\boxed{1} \\boxed {2} \\boxed 3", "same"),
        ("remove_code_errors", "traceback (most recent call last), syntaxerror", "same"),
        ("remove_code_errors", "Traceback Xmost recent call lastX", "same"),  # literal text, not a pattern
        ("remove_verification_code", VERIFYING[0].lower(), "same"),
        ("trim_prefix", " My solution:\nx", "same"),
        ("trim_prefix", "My solution:\nMy solution:\nx", "My solution:\nx"),
        ("trim_solutions", "a \\boxed{\\frac{1}{2}} b\nc", "a \\boxed{\\frac{1}{2}} b"),
        ("trim_solutions", "\\boxed{1}\n\\boxed{\\boxed{2}} x\ny", "\\boxed{1}\n\\boxed{\\boxed{2}} x"),
        ("trim_solutions", "\\boxed{1}\n\\boxed 2 {x}\ny", "same"),  # the last one counts, and has no answer
        ("trim_solutions", "\\boxed{1}\n\\boxed{2\ny", "same"),
        ("trim_solutions", "\\boxed{}\ny", "\\boxed{}"),
        ("trim_solutions", "no answer\nat all", "same"),
        ("drop_incorrect_arithmetic", "so 2 * 3 + 1 = 8 and", None),
        ("drop_incorrect_arithmetic", "so 2 * 3 = 8 and", "same"),  # one operator is no expression
        ("drop_incorrect_arithmetic", "1 / 3 + 1 = 1.3334", "same"),  # within 1e-4
        ("drop_incorrect_arithmetic", "1 / 3 + 1 = 1.33", None),
        ("drop_incorrect_arithmetic", "2 * x + 3 * x = 7 + 1 + 1", "same"),
        ("drop_incorrect_arithmetic", "1 + 1 / 0 = 3", "same"),
        ("split_arithmetic", "2 - 3 - 4 = -5", "2 - 3 - 4 = (-1) - 4 = -5"),
        ("split_arithmetic", "1 + 1 + 1 = 4", "same"),
        ("split_arithmetic", "0.1 + 0.2 + 0.3 = 0.6", "same"),  # exactly equal only
        # Upstream writes the expression twice, for a full stop after a blank ends it twice.
        ("split_arithmetic", "1 + 2 + 3 = 6 . Then", "1 + 2 + 3 = 3 + 3 = 6 . Then"),
        ("split_arithmetic", "1 + 2 . + 3 = 6 x", "same"),
    ],
)
def test_filters_beyond_upstreams_cases(name: str, solution: str, expected: str | None) -> None:
    assert filtered(name, generation(solution)) == (solution if expected == "same" else expected)


# (options, solutions or rows, those that stay or what becomes of them, dropped, changed)
ENDED = {"finish_reason": "length"}
COUNTED: list[tuple[str, list[str | Row], list[str], int, int]] = [
    ("--drop-incomplete", ["a", generation("b", **ENDED), generation("c", finish_reason="stop")], ["a", "c"], 1, 0),
    ("--drop-multi-boxed", ["\\boxed{1}", "\\boxed{1}\\boxed{2}"], ["\\boxed{1}"], 1, 0),
    ("--remove-code-errors", ["a", "Timed out", "SyntaxError"], ["a"], 2, 0),
    ("--remove-matplotlib", ["a", "import matplotlib"], ["a"], 1, 0),
    ("--remove-no-code", ["<tool_call></tool_call>", "<tool_call>", "c"], ["<tool_call></tool_call>"], 2, 0),
    ("--remove-no-think-tags", ["</think>a", "b"], ["</think>a"], 1, 0),
    ("--remove-verification-code", ["a", "Let's use Python to plot"], ["a"], 1, 0),
    ("--trim-prefix", ["My solution:\na", "b"], ["a", "b"], 0, 1),
    ("--trim-solutions", ["\\boxed{1}\na", "\\boxed{2}", "c"], ["\\boxed{1}", "\\boxed{2}", "c"], 0, 1),
    ("--drop-incorrect-arithmetic", ["1 + 1 + 1 = 3", "1 + 1 + 1 = 4"], ["1 + 1 + 1 = 3"], 1, 0),
    ("--split-arithmetic", ["1 + 1 + 1 = 3", "b"], ["1 + 1 + 1 = 2 + 1 = 3", "b"], 0, 1),
]


@pytest.mark.parametrize(("option", "given", "expected", "dropped", "changed"), COUNTED, ids=[c[0] for c in COUNTED])
def test_each_filter_with_its_counts(
    tool: Tool, option: str, given: list[str | Row], expected: list[str], dropped: int, changed: int
) -> None:
    rows = [generation(g) if isinstance(g, str) else g for g in given]
    write(tool.input, *rows, rows[-1])  # a duplicate is not counted by a filter
    assert tool.outputs(option) == expected
    name = option.removeprefix("--").replace("-", "_")
    done = tool.done()
    assert done["dropped"].get(name, 0) == dropped and done["modified"].get(name, 0) == changed
    assert done["dropped"]["duplicates"] == 1


def test_majority_filter(tool: Tool) -> None:
    votes = [(5, 10), (2, 10), (6, 20), (None, 10)]
    rows = [generation(f"{n}", majority_votes=ours, total_votes=total) for n, (ours, total) in enumerate(votes)]
    write(tool.input, *rows, generation("none"))
    assert tool.outputs("--majority-filter", "--min-majority-votes", 3) == ["0", "2", "3", "none"]
    assert tool.outputs("--majority-filter", "--min-majority-percentage", 0.5) == ["0", "3", "none"]
    assert tool.done()["dropped"]["majority_filter"] == 2
    write(tool.input, generation("a", majority_votes="many", total_votes=1))
    failed(tool.call("--majority-filter", "--min-majority-votes", 1), f"{tool.input}:1: field 'majority_votes' is")


def test_contaminated_problems_are_dropped(tool: Tool, tmp_path: Path) -> None:
    write(tool.input, generation("a", "dirty"), generation("b", "clean"), generation("c", "dirty"), generation("d"))
    listed = [{"problem": "dirty", "contaminated": True}, {"problem": "clean", "contaminated": False}]
    file = write(tmp_path / "list.jsonl", *listed)
    option = ("--remove-contaminated", "--contamination-file", file)
    assert tool.outputs(*option) == ["b", "d"]
    assert tool.done()["dropped"]["remove_contaminated"] == 2
    assert str(file) in tool.done()["inputs"]
    write(file, *listed, {"problem": "unknown"})
    failed(tool.call(*option), f"{file}:3: no field 'contaminated'")


@pytest.mark.slow
def test_length_limits_in_tokens_and_characters(tool: Tool, chatml: Path) -> None:
    """A limit that is not given is none: upstream compares with null and crashes."""
    rows = [generation("é" * n, "p" * n) for n in (1, 2, 3, 4)]  # 2, 4, 6, 8 tokens; problems 1 to 4
    write(tool.input, *rows)
    solutions = ("--tokenizer", chatml, "--assistant-end", "", "--remove-len-outlier-solutions")
    assert tool.outputs(*solutions, "--min-solution-length", 4, "--max-solution-length", 6) == ["éé", "ééé"]
    assert tool.done()["dropped"]["remove_len_outlier_solutions"] == 2
    assert tool.outputs(*solutions, "--max-solution-length", 4) == ["é", "éé"]
    chars = ("--min-solution-length", 4, "--use-chars-for-min-length")
    assert tool.outputs(*solutions, *chars) == ["éééé"]
    problems = ("--tokenizer", chatml, "--assistant-end", "", "--remove-len-outlier-problems")
    assert tool.outputs(*problems, "--min-problem-length", 3) == ["ééé", "éééé"]
    assert tool.done()["dropped"]["remove_len_outlier_problems"] == 2


def test_filters_run_in_upstreams_order_and_count_what_reaches_them(tool: Tool) -> None:
    """The prefix is trimmed before the arithmetic is looked at; a row is counted by the first filter that drops it."""
    write(
        tool.input,
        generation("My solution:\n\\boxed{3}\nso 1 + 1 + 1 = 4"),  # the wrong equation is trimmed away first
        generation("\\boxed{1} \\boxed{2} Timed out"),
        generation("My solution:\n1 + 1 + 1 = 4 \\boxed{4}"),
    )
    options = ("--remove-code-errors", "--drop-incorrect-arithmetic", "--trim-solutions", "--trim-prefix")
    assert tool.outputs(*options, "--drop-multi-boxed") == ["\\boxed{3}"]
    done = tool.done()
    counts = {"drop_multi_boxed": 1, "remove_code_errors": 0, "drop_incorrect_arithmetic": 1}
    assert {k: done["dropped"][k] for k in counts} == counts
    assert done["modified"] == {"trim_prefix": 2, "trim_solutions": 1}


# --- arithmetic ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "last"),
    [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("2**3**2", "64"),  # from left to right, as upstream
        ("7 / 2", "3.5"),
        ("2 - -3", "5"),
        ("-2 * (3 - 5)", "4"),
        ("10 / 4 * 2", "5"),
    ],
)
def test_expressions_are_solved(expression: str, last: str) -> None:
    assert arithmetic.solve(expression)[-1] == last


@pytest.mark.parametrize(
    "text",
    [
        *(
            "9**9**9",
            "10**10**10",
            "2**(10**9)",
            "(" * 500 + "1" + ")" * 500,
            "-" * 1500 + "x",
            "1" * 3000,
            "99999**99999",
        ),
        *(
            "__import__('os')",
            "print(1)",
            "1 if 2 else 3",
            "[1]",
            "5(3)",
            "()",
            "'a'",
            "1, 2",
            "",
            "007",
            "a",
            "1j",
            "1; 2",
        ),
    ],
)
def test_what_is_no_arithmetic_or_too_large_has_no_value(text: str) -> None:
    with pytest.raises(ValueError):
        arithmetic.value(text)


def test_values_are_those_of_python() -> None:
    texts = ["1 + 2 * 3", "2**3**2", "-2**2", "7 // 2", "1.50", "(2)", "- - 3", "+4", "2**-1", "10**300"]
    for text in texts:
        assert arithmetic.value(f" {text} ") == eval(text)
    assert arithmetic.value("(-8)**0.5") == (-8) ** 0.5  # complex: of no use, but no harm


@pytest.mark.parametrize(
    "text",
    [
        "1 + 1 + 9**9**9 = 9**9**9",
        "1+" * 50_000 + "1 = 3",
        ("1+" * 900 + "1=3 x ") * 60,
        "1 + 1 = 2 ." + " ." * 50_000,
        "1+1=2 . +" * 12_000,
        "1 + 1 =" + "(" * 1900 + "1" + ")" * 1900,
        "1 + 1 = " + "99999999*" * 200 + "1",
        "9" * 1900 + " + 1 + 1 = 3",
        ("9" * 900 + "*" + "9" * 900 + "*2=1 x ") * 50,
    ],
    ids=range(9),
)
def test_hostile_arithmetic_does_not_hang(text: str) -> None:
    start = time.process_time()  # not what others on the machine take
    arithmetic.wrong(text)
    assert len(arithmetic.split(text)) < 10 * len(text) + 1000
    assert time.process_time() - start < 5


def test_model_text_is_not_executed(tool: Tool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    write(tool.input, generation(f"1 + 1 + 1 = {code}"), generation("1 + 1 + 1 = (3)(4)"), generation("1+1+2=9**9**9"))
    assert len(tool.outputs("--drop-incorrect-arithmetic", "--split-arithmetic")) == 3
    assert not mark.exists()


# --- which rows, in which order --------------------------------------------------------------------------------------


def test_values_decide(tool: Tool) -> None:
    grades = [("r", True, "Judgement: Yes"), ("w", False, "x Judgement: no"), ("n", None, "no verdict")]
    rows = [{"problem": "p", "generation": s, "symbolic_correct": g, "judgement": j} for s, g, j in grades]
    rows += [{"problem": "p", "generation": "u"}, {}, generation("late", judgement="Judgement: No. Judgement:\n yes")]
    write(tool.input, *rows)
    assert tool.outputs() == ["r", "late"]
    assert {k: v for k, v in tool.done()["dropped"].items() if v} == {"empty": 1, "unlabeled": 2, "correctness": 1}
    assert tool.outputs("--no-add-correct", "--add-incorrect") == ["w"]  # null: nobody said so
    assert tool.outputs("--add-incorrect") == ["r", "w", "late"]
    assert tool.outputs("--use-judgement") == ["r", "late"]
    assert tool.outputs("--use-judgement", "--add-incorrect", "--no-add-correct") == ["w"]
    assert tool.done()["dropped"]["unreadable"] == 1
    assert tool.outputs("--add-unlabeled") == ["r", "w", "n", "u", "late"]


@pytest.mark.parametrize(
    "judgement,correct",
    [
        ("Judgement: Yes", True),
        ("**Judgement**: Yes", True),
        ("Judgement: **Yes**", True),
        ("**Judgement: Yes.**", True),
        ("judgement: yes", True),
        ("JUDGEMENT: YES", True),
        ("### Judgment:\n\n`Yes`", True),
        ('Judgement: "yes"', True),
        ("Reasoning: no doubt.\nJudgement: Yes, it is", True),
        ("Judgement: No. On second thoughts, **Judgement**: yes", True),
        ("**Judgement**: No", False),
        ("Judgement: **no**", False),
        ("Judgment: No, for 3 is not 4", False),
        ("Judgement: Yes\nJudgement: No", False),
        ("Judgement:", None),  # cut off
        ("Judgement: Yes\nJudgement: ", None),
        ("Judgement: Yes/No", None),  # the form that was asked for, not filled in
        ("Judgement: yes or no", None),
        ("Judgement: Yesterday", None),
        ("Judgement: Not sure", None),
        ("Yes", None),
        ("", None),
    ],
)
def test_verdicts_of_judges(judgement: str, correct: bool | None) -> None:
    from sft.data.generations.filter import is_correct

    assert is_correct(judgement) is correct


def test_an_unreadable_verdict_is_neither_right_nor_wrong(tool: Tool) -> None:
    """As in the field: half of the judges write in bold."""
    bold = [generation(f"b{i}", judgement="**Judgement**: **Yes**") for i in range(2)]
    rows = [*bold, generation("y", judgement="Judgement: Yes"), generation("n", judgement="**Judgement:** No")]
    write(tool.input, *rows, generation("?", judgement="Judgement: it depends"))
    output = ok(tool.call("--use-judgement", "--no-shuffle"))
    assert [json.loads(line)["output"] for line in tool.text().splitlines()] == ["b0", "b1", "y"]
    assert "1 judgements say neither Yes nor No" in output and "dropped 1 (unreadable)" in output
    assert (tool.done()["dropped"]["unreadable"], tool.done()["dropped"]["correctness"]) == (1, 1)
    assert tool.outputs("--use-judgement", "--add-incorrect") == ["b0", "b1", "y", "n"]
    for wrong in (None, ["Yes"], 1):
        write(tool.input, *rows, generation("?", judgement=wrong))
        failed(tool.call("--use-judgement"), f"{tool.input}:5: no text in field 'judgement'")


def test_a_grade_is_true_or_false_however_it_is_written(tool: Tool) -> None:
    right = [True, 1, 1.0, "True", "true "]
    wrong = [False, 0, 0.0, "False", "false"]
    rows = [generation(f"r{i}", symbolic_correct=grade) for i, grade in enumerate(right)]
    rows += [generation(f"w{i}", symbolic_correct=grade) for i, grade in enumerate(wrong)]
    write(tool.input, *rows, generation("u", symbolic_correct=None))
    assert tool.outputs() == ["r0", "r1", "r2", "r3", "r4"]
    assert (tool.done()["dropped"]["unlabeled"], tool.done()["dropped"]["correctness"]) == (1, 5)
    assert tool.outputs("--add-incorrect", "--no-add-correct") == ["w0", "w1", "w2", "w3", "w4"]
    assert len(tool.outputs("--add-unlabeled")) == 11
    for odd in ("yes", 2, [True], {"a": 1}):
        write(tool.input, generation("a"), generation("b", symbolic_correct=odd))
        failed(tool.call(), f"{tool.input}:2: field 'symbolic_correct' is", "neither true nor false")


@pytest.mark.parametrize(
    "fields,words",
    [
        ({"generation": None}, "no text in field 'generation'"),
        ({"problem": 7}, "no text in field 'problem'"),
        ({"expected_answer": [1, 2]}, "field 'expected_answer' is list, neither text nor number"),
        ({"expected_answer": True}, "field 'expected_answer' is bool, neither text nor number"),
        ({"finish_reason": 1}, "field 'finish_reason' is int, no text"),
        ({"majority_votes": "5", "total_votes": 8}, "field 'majority_votes' is '5', no number"),
        ({"majority_votes": 5, "total_votes": True}, "field 'total_votes' is True, no number"),
    ],
)
def test_a_field_of_another_type_is_named(tool: Tool, fields: Row, words: str) -> None:
    write(tool.input, generation("a"), generation("b") | fields)
    failed(tool.call("--majority-filter", "--min-majority-votes", 1), f"{tool.input}:2: {words}")


@pytest.mark.slow
def test_an_answer_that_is_null_is_not_written_as_none(tool: Tool, chatml: Path, tmp_path: Path) -> None:
    write(tool.input, generation("a", expected_answer=None, predicted_answer=None))
    assert tool.make() == [{"input": "p", "output": "a"}]
    assert tool.make("--tokenizer", chatml)[0]["output"] == "a<|im_end|>\n"
    asks = tmp_path / "asks.yaml"
    asks.write_text('user: "{problem} {expected_answer}"\n')
    words = f"{tool.input}:1: field 'expected_answer' is null, which the prompt asks for"
    failed(tool.call("--tokenizer", chatml, "--prompt-config", asks), words)


def test_contaminated_is_true_or_false_however_it_is_written(tool: Tool, tmp_path: Path) -> None:
    check = write(tmp_path / "check.jsonl", {"problem": "p", "contaminated": "False"})
    write(tool.input, generation("a"))
    options = ("--remove-contaminated", "--contamination-file", check)
    assert tool.outputs(*options) == ["a"]
    write(check, {"problem": "p", "contaminated": "maybe"})
    failed(tool.call(*options), f"{check}:1: field 'contaminated' is 'maybe', neither true nor false")
    write(check, {"problem": "p", "contaminated": None})
    failed(tool.call(*options), f"{check}:1: no field 'contaminated'")


def test_globs_keep_their_order_and_graded_files_come_first(tool: Tool, tmp_path: Path) -> None:
    for name in ("b1", "a2", "a1"):
        write(tmp_path / f"{name}.jsonl", generation(f"{name} first"), generation(f"{name} second"))
    write(tmp_path / "pre.jsonl", {"problem": "p", "generation": "skipped"}, {"problem": "p", "generation": "ungraded"})
    files = [f"{tmp_path}/{name}.jsonl" for name in ("b*", "a*")]
    expected = ["b1 second", "a1 second", "a2 second"]
    for between in (" ", ",", ", "):
        assert tool.outputs("--input-files", between.join(files), "--skip-first", 1) == expected
    both = ("--preprocessed-dataset-files", tmp_path / "pre.jsonl", "--input-files", files[1], "--skip-first", 1)
    assert tool.outputs(*both) == ["a1 second", "a2 second", "ungraded"]
    assert tool.done()["dropped"]["skip_first"] == 3 and tool.done()["rows_read"] == 6
    assert list(tool.done()["inputs"]) == [f"{tmp_path}/{name}.jsonl" for name in ("a1", "a2", "pre")]


def reference(rows: list[Row], method: str | None = None, number: int = 0, shuffle: bool = True) -> list[str]:
    """The order of NeMo-Skills 8b18f39 preprocessing.py:180-306 in a few lines, with every text in memory."""
    seen: dict[tuple[str, str], Row] = {}
    for row in rows:
        seen.setdefault((row["problem"], row["generation"]), row)
    groups: dict[str, list[str]] = {}
    for problem, solution in seen:
        groups.setdefault(problem, []).append(solution)
    order = [solution for group in groups.values() for solution in group]
    if method == "fair" and number < len(order):
        rounds = range(max(map(len, groups.values())))
        order = [group[n] for n in rounds for group in groups.values() if n < len(group)][:number]
    if shuffle:
        random.seed(42)
        random.shuffle(order)
    return order[:number] if method == "random" else order


@pytest.fixture(scope="module")
def many() -> list[Row]:
    """200 rows of 30 problems, among them duplicates near and far."""
    draw = random.Random(0)
    return [generation(f"solution {draw.randrange(90)} é", f"problem {draw.randrange(30)}") for _ in range(200)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {}),
        (("--no-shuffle",), {"shuffle": False}),
        (("--downsampling-method", "random", "--num-output-samples", 17), {"method": "random", "number": 17}),
        (("--downsampling-method", "fair", "--num-output-samples", 61), {"method": "fair", "number": 61}),
        (
            ("--downsampling-method", "fair", "--num-output-samples", 40, "--no-shuffle"),
            {"method": "fair", "number": 40, "shuffle": False},
        ),
    ],
)
def test_the_order_is_upstreams_for_any_number_of_workers(
    tool: Tool, many: list[Row], options: tuple[object, ...], expected: dict[str, Any]
) -> None:
    """Blocks of some five rows: duplicates lie in other blocks, which other workers take."""
    write(tool.input, *many)
    wanted = reference(many, **expected)
    texts = set()
    for workers, block in ((1, None), (1, 300), (3, 300)):
        rows = tool.make(*options, "--workers", workers, block=block)
        assert [row["output"] for row in rows] == wanted
        texts.add(tool.text())
    assert len(texts) == 1
    assert tool.done()["dropped"]["duplicates"] == 200 - len(reference(many)) > 0


def test_the_seed_decides_the_order(tool: Tool) -> None:
    write(tool.input, *(generation(str(n)) for n in range(50)))
    default, other = (list(map(int, (r["output"] for r in tool.make(*o)))) for o in ((), ("--random-seed", 7)))
    for seed, order in ((42, default), (7, other)):
        expected = list(range(50))
        random.seed(seed)
        random.shuffle(expected)
        assert order == expected


def test_fair_sampling_of_all_rows_keeps_all(tool: Tool) -> None:
    """Upstream writes an empty file where as many rows are asked for as there are."""
    write(tool.input, generation("a1", "a"), generation("b1", "b"), generation("a2", "a"), generation("a3", "a"))
    fair = ("--downsampling-method", "fair", "--num-output-samples")
    for number, expected in (
        (3, ["a1", "b1", "a2"]),
        (4, ["a1", "a2", "a3", "b1"]),
        (9, ["a1", "a2", "a3", "b1"]),
        (1, ["a1"]),
    ):
        assert tool.outputs(*fair, number) == expected
        assert tool.done()["dropped"]["downsampling"] == 4 - len(expected)


def test_duplicates_count_before_filters_and_again_after(tool: Tool) -> None:
    """The first wins even if a filter then drops it, and rows that filters make equal are written once."""
    write(
        tool.input,
        generation("a", majority_votes=1, total_votes=9),
        generation("a", majority_votes=9, total_votes=9),
        generation("My solution:\nb"),
        generation("b"),
        generation("b", "other problem"),
    )
    votes = ("--majority-filter", "--min-majority-votes", 5)
    assert tool.outputs("--trim-prefix", *votes) == ["b", "b"]
    counts = {k: v for k, v in tool.done()["dropped"].items() if v}
    assert counts == {"duplicates": 1, "majority_filter": 1, "duplicates_after_filters": 1}
    assert tool.outputs("--no-deduplicate", *votes) == ["a", "My solution:\nb", "b", "b"]
    write(tool.input, *(generation("a") for _ in range(3)))
    assert tool.outputs("--no-deduplicate") == ["a"]  # as upstream: what is written is never written twice
    assert tool.done()["dropped"]["duplicates_after_filters"] == 2


def test_code_text_filter(tool: Tool, tmp_path: Path) -> None:
    """Problems with 2 of 3, 1 of 2 (a tie) and none of 2 solutions with code. Upstream crashes on its own tags."""
    solutions = {"a": ["t1", "<tool_call>1", "<tool_call>2"], "b": ["t2", "<tool_call>3"], "c": ["t3", "t4"]}
    write(tool.input, *(generation(text, problem) for problem, texts in solutions.items() for text in texts))
    code = ["<tool_call>1", "<tool_call>2"]
    for kind, expected in {
        "all": [*code, "<tool_call>3"],
        "majority_code": [*code, "<tool_call>3", "t2", "t3", "t4"],
        "majority_text": [*code, "t2", "t3", "t4"],
        "any_code": [*code, "<tool_call>3", "t3", "t4"],
    }.items():
        assert tool.outputs("--code-text-filter", kind, "--code-tags", "openmath") == expected
        assert tool.done()["dropped"]["code_text_filter"] == 7 - len(expected)
    tags = tmp_path / "tags.yaml"
    tags.write_text("code_begin: t3\n")
    assert tool.outputs("--code-text-filter", "all", "--code-tags", tags) == ["t3"]


# --- format ----------------------------------------------------------------------------------------------------------


def test_plain_rows_are_upstreams_bytes(tool: Tool) -> None:
    """Without a tokenizer the texts stay as they are; other fields go, except for the answer, which becomes text."""
    write(tool.input, generation("é\n", expected_answer=4.0, id=1, predicted_answer="x", finish_reason="length"))
    tool.make()
    assert tool.text() == '{"expected_answer": "4.0", "input": "p", "output": "\\u00e9\\n"}\n'
    tool.make("--keep-optional-keys", "--metadata", '{"source": "s", "predicted_answer": null}')
    assert json.loads(tool.text()) == {
        **{"problem": "p", "generation": "é\n", "symbolic_correct": True, "expected_answer": 4.0},
        **{"predicted_answer": None, "finish_reason": "length", "input": "p", "output": "é\n", "source": "s"},
    }
    write(
        tool.input,
        '{"problem": "p", "generation": "g", "symbolic_correct": 1, "expected_answer": 12345678901234567890}',
    )
    assert tool.make()[0]["expected_answer"] == "12345678901234567890"


def formatted(row: Row, *options: object) -> Row:
    """What the second pass makes of a row, in this process."""
    from sft.data.generations.blocks import Job
    from sft.data.generations.format import Formatting, load_template

    arguments = generations_options.parser(None).parse_args([str(o) for o in options])
    generations_options.check(argparse.Namespace(**vars(arguments) | {"name": "x"}))
    job = Job(arguments, generations_options.load_prompt(arguments), set(), None)
    return Formatting(job._replace(template=load_template(job)), Path()).row(row.copy())


def turn(user: str, system: str = SYSTEM) -> str:
    return f"{system}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


def test_rows_are_formatted_by_the_chat_template(tool: Tool, chatml: Path) -> None:
    row = generation("So {x}", "1+{x}?", expected_answer="2")
    write(tool.input, row)
    output = "So {x}<|im_end|>\n"
    math = ("--tokenizer", chatml, "--prompt-config", "generic/math")
    assert tool.make(*math) == [{"expected_answer": "2", "input": turn(MATH + "1+{x}?"), "output": output}]
    assert {"tokenizer.json", "tokenizer_config.json"} <= {Path(name).name for name in tool.done()["inputs"]}
    assert formatted(row, "--tokenizer", chatml)["input"] == turn("1+{x}?")  # no prompt: the problem alone
    empty = "<|im_start|>system\n<|im_end|>\n"
    assert formatted(row, *math, "--system-message", "")["input"] == turn(MATH + "1+{x}?", empty)
    assert formatted(row, *math, "--assistant-end", "<end>")["output"] == "So {x}<end>"


def test_rendering_is_that_of_autotokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = save_tokenizer(tmp_path / "t", CHATML.replace("You help.", "{{ bos_token }}{{ eos_token }}{{ style }}"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    user = {"role": "user", "content": "a\nb"}
    asked = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True, style="short")
    whole = tokenizer.apply_chat_template(
        [user, {"role": "assistant", "content": " c "}], tokenize=False, style="short"
    )
    row = formatted(generation(" c ", "a\nb"), "--tokenizer", folder, "--chat-template-kwargs", '{"style": "short"}')
    assert row == {"input": asked, "output": whole.removeprefix(asked)} and "<s><|im_end|>short" in asked


# The lines of Llama 3.2's template that put a date into every system block.
DATED = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{% endif %}{% for m in messages %}{% if loop.first %}<|im_start|>system\nToday Date: {{ date_string }}"
    "{{ strftime_now(' (%Y)') }}<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.slow
def test_rows_are_the_same_on_every_day(tool: Tool, tmp_path: Path) -> None:
    """Also where midnight passes between the prompt and the answer, which used to end the stage."""
    folder = save_tokenizer(tmp_path / "t", DATED)
    write(tool.input, generation("a"))
    for day in ("2025-02-28", "2031-12-31"):
        env = clock.environment(tmp_path / "clock", day, tool.repo.root / "python")
        assert tool.make("--tokenizer", folder, **env) == [{
            "input": "<|im_start|>system\nToday Date: 26 Jul 2024 (2024)<|im_end|>\n<|im_start|>user\np<|im_end|>\n"
            "<|im_start|>assistant\n",
            "output": "a<|im_end|>\n",
        }]  # fmt: skip
    own = '{"date_string": "1 Jan 2030"}'
    assert (
        "Today Date: 1 Jan 2030 (2024)<" in tool.make("--tokenizer", folder, "--chat-template-kwargs", own)[0]["input"]
    )


@pytest.mark.slow
def test_a_prompt_file_and_code_executions(tool: Tool, chatml: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text('system: "Be brief."\nuser: "{examples}Q: {problem} A: {expected_answer} {{}}"\n')
    write(tool.input, generation("s", "1+1", expected_answer=2))
    question = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ: 1+1 A: 2 {}<|im_end|>\n"
    prompt = ("--tokenizer", chatml, "--prompt-config")
    assert tool.make(*prompt, file)[0]["input"] == f"{question}<|im_start|>assistant\n"
    assert str(file) in tool.done()["inputs"]
    write(tool.input, generation("s", "1+1", expected_answer=2), generation("t"))
    failed(tool.call(*prompt, file), f"{tool.input}:2: no field 'expected_answer'")

    texts = ["Remaining code executions: 12. x Remaining code executions: 11.", "You have run out of code executions!"]
    write(tool.input, *(generation(text) for text in [*texts, "none", "Remaining code executions: 12\n"]))
    tir = (*prompt, "openmath/tir", "--add-code-execution-counts", "--no-shuffle")
    assert [row["input"].split("up to ")[1].split()[0] for row in tool.make(*tir)] == ["13", "1", "0", "13"]
    rows = tool.make("--add-code-execution-counts", "--keep-optional-keys", "--no-shuffle")
    assert [row["total_code_executions"] for row in rows] == [13, 1, 0, 13]
    assert tool.done()["modified"]["add_code_execution_counts"] == 4


def test_what_was_cut_off_gets_no_end_of_turn(tool: Tool, chatml: Path) -> None:
    """Upstream means it so, but drops finish_reason before it looks."""
    reasons = ({}, {"finish_reason": "stop"}, ENDED, {"finish_reason": None})
    write(tool.input, *(generation(str(n), **reason) for n, reason in enumerate(reasons)))
    assert tool.outputs("--tokenizer", chatml) == ["0<|im_end|>\n", "1<|im_end|>\n", "2", "3"]
    assert tool.done()["without_end_of_turn"] == 2
    assert "finish_reason" not in tool.text()
    for reason, output in zip(reasons, ("x!", "x!", "x", "x"), strict=True):
        assert formatted(generation("x", **reason), "--tokenizer", chatml, "--assistant-end", "!")["output"] == output


@pytest.mark.slow
def test_reasoning_goes_to_the_template(tool: Tool, chatml: Path, tmp_path: Path) -> None:
    template = CHATML.replace("{{ m.content }}", "{% if m.thinking %}[{{ m.thinking }}]{% endif %}{{ m.content }}")
    thinking = save_tokenizer(tmp_path / "thinking", template)
    write(tool.input, generation("a", reasoning_content="hm"), generation("b"))
    assert tool.outputs("--tokenizer", thinking) == ["[hm]a<|im_end|>\n", "b<|im_end|>\n"]
    failed(tool.call("--tokenizer", chatml), f"{tool.input}:1: the chat template leaves reasoning_content out")
    failed(tool.call("--tokenizer", thinking, "--assistant-end", "."), f"{tool.input}:1: --assistant-end leaves no")
    write(tool.input, generation("a", reasoning_content="hm", **ENDED))
    failed(
        tool.call("--tokenizer", thinking), f"{tool.input}:1: reasoning_content of a generation", "--drop-incomplete"
    )


@pytest.mark.slow
def test_templates_that_cannot_do_it(tool: Tool, tmp_path: Path) -> None:
    write(tool.input, generation("a"))
    base = save_tokenizer(tmp_path / "base", None)
    failed(tool.call("--tokenizer", base), "has no chat template; give --assistant-end")
    assert tool.make("--tokenizer", base, "--assistant-end", ".") == [{"input": "<s>p", "output": "a."}]
    strict = save_tokenizer(tmp_path / "strict", "{{ raise_exception('no users') }}")
    failed(tool.call("--tokenizer", strict), "the chat template refuses it (no users)")
    other = save_tokenizer(tmp_path / "other", "{{ messages | length }}{{ add_generation_prompt }}")
    failed(tool.call("--tokenizer", other), "does not go on from its prompt; give --assistant-end")
    (other / "tokenizer.json").write_text("{}")
    failed(tool.call("--tokenizer", other), f"{other} cannot be loaded")
    assert not tool.work.exists()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--bogus", "unrecognized arguments: --bogus"),
        ("--name Bad/Name", "'Bad/Name' names no data set"),
        ("--input-files nowhere*.jsonl", "no file matches 'nowhere*.jsonl'"),
        ("--input-files in.jsonl,nowhere.jsonl", "no file matches 'nowhere.jsonl'"),
        ("--input-files .", "--input-files: . is not a file"),
        ("--input-files ,", "no input"),
        ("--skip-first -1", "'-1' is not a whole number of 0 or more"),
        ("--no-add-correct", "neither correct nor incorrect"),
        ("--remove-contaminated", "has no effect without --contamination-file"),
        ("--contamination-file in.jsonl", "has no effect without --remove-contaminated"),
        ("--remove-contaminated --contamination-file none", "there is no none"),
        ("--min-majority-votes 1", "has no effect without --majority-filter"),
        ("--majority-filter", "has no effect without --min-majority-votes or"),
        ("--majority-filter --min-majority-percentage 50", "not a number from 0 to 1"),
        ("--max-problem-length 5", "has no effect without --remove-len-outlier-problems"),
        ("--remove-len-outlier-problems --tokenizer .", "has no effect without --min-problem-length or"),
        ("--remove-len-outlier-solutions --tokenizer .", "has no effect without --min-solution-length or"),
        ("--remove-len-outlier-solutions --max-solution-length 5", "has no effect without --tokenizer"),
        ("--use-chars-for-min-length", "has no effect without --min-solution-length"),
        (
            "--remove-len-outlier-problems --tokenizer . --min-problem-length 5 --max-problem-length 4",
            "--min-problem-length 5 is above --max-problem-length 4",
        ),
        ("--add-code-execution-counts", "--keep-optional-keys"),
        ("--code-text-filter all", "has no effect without --code-tags"),
        ("--code-text-filter all --code-tags bogus", "no tags named bogus"),
        ("--code-text-filter some", "invalid choice"),
        ("--num-output-samples 5", "has no effect without --downsampling-method"),
        ("--downsampling-method fair", "has no effect without --num-output-samples"),
        ("--downsampling-method fair --num-output-samples 0", "'0' is not a whole number of 1 or more"),
        ("--prompt-config generic/math", "has no effect without --tokenizer"),
        ("--system-message hello --tokenizer .", "has no effect without --prompt-config"),
        ("--assistant-end .", "has no effect without --tokenizer"),
        ("--tokenizer none", "none has no tokenizer.json"),
        ("--tokenizer CHATML --prompt-config none", "no prompt named none"),
        ("--tokenizer CHATML --prompt-config none.yaml", "there is no none.yaml"),
        ("--tokenizer CHATML --prompt-config broken.yaml", "broken.yaml is not valid YAML"),
        ("--tokenizer CHATML --prompt-config shots.yaml", "shots.yaml sets few_shot_examples"),
        ("--tokenizer CHATML --prompt-config field.yaml", "field.yaml asks for 'level'"),
        ("--tokenizer CHATML --prompt-config open.yaml", "open.yaml is not a format string"),
        ("--tokenizer CHATML --prompt-config openmath/tir", "give --add-code-execution-counts"),
        ("--tokenizer CHATML --chat-template-kwargs [1]", "'[1]' is not a JSON object"),
        ('--tokenizer CHATML --chat-template-kwargs {"tokenize":true}', "must not set tokenize"),
        ("--metadata {", "'{' is not a JSON object"),
        ("--input-key a --output-key a", "--input-key and --output-key are both a"),
    ],
)
def test_wrong_calls_are_refused_before_anything_is_written(
    tool: Tool, chatml: Path, options: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tool.folder
    write(folder / "in.jsonl", generation("a"))
    (folder / "broken.yaml").write_text("user: [")
    (folder / "shots.yaml").write_text("user: a\nfew_shot_examples: {examples_type: math}\n")
    (folder / "field.yaml").write_text("user: '{problem} {level}'\n")
    (folder / "open.yaml").write_text("user: '{problem'\n")
    given = [str(chatml) if o == "CHATML" else o for o in options.split()]
    script = tool.repo.root / "python/tools/sft_data.py"
    usual = ["--name", "x", "--input-files", "in.jsonl", "--work", "work"]
    command = [sys.executable, script, *usual, *given]
    result = subprocess.run(command, cwd=folder, env=tool.repo.env, capture_output=True, text=True, timeout=60)
    failed(result, words, status=(2,))
    assert not (folder / "work").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"problem": "x"', "malformed JSON line"),
        ("", "malformed JSON line"),
        ("[1]", "malformed JSON line (not an object)"),
        ("null", "malformed JSON line (not an object)"),
        ("[" * 100_000, "malformed JSON line"),
        ('{"generation": "s", "symbolic_correct": true}', "no text in field 'problem'"),
        ('{"problem": "p", "symbolic_correct": true}', "no text in field 'generation'"),
        ('{"problem": "p", "generation": ["s"], "symbolic_correct": true}', "no text in field 'generation'"),
        ('{"problem": "p", "generation": "\\ud800", "symbolic_correct": true}', "'utf-8' codec can't encode"),
    ],
    ids=range(9),
)
def test_a_bad_line_is_named_and_leaves_nothing(tool: Tool, line: str, words: str) -> None:
    good = [generation(f"{n}") for n in range(5)]
    write(tool.input, *good, line, *good)
    failed(tool.call(block=100), f"{tool.input}:6: {words}", status=(1,))
    assert list((tool.work / "data" / "x").iterdir()) == []
    write(tool.input, *good, line)
    failed(tool.call("--skip-first", 6), "no row is left of 6 (skip_first drops 6)")  # what is skipped is not read


def test_ungraded_rows_are_not_looked_at_but_judgements_must_be_text(tool: Tool) -> None:
    write(tool.input, {"id": 1}, generation("a", judgement="Judgement: yes"))
    assert tool.outputs() == ["a"]  # an incomplete generation needs no text
    write(tool.input, generation("a", judgement=None))
    failed(tool.call("--use-judgement"), f"{tool.input}:1: no text in field 'judgement'")
    write(tool.input, {})
    failed(tool.call("--input-files", "", "--preprocessed-dataset-files", tool.input), f"{tool.input}:1: no text")
    failed(tool.call(), "no row is left of 1 (empty drops 1)")
    tool.input.write_text("")
    failed(tool.call(), "no row is left of 0 (the input is empty)")


def test_a_rerun_skips_and_another_one_is_refused(tool: Tool, tmp_path: Path) -> None:
    write(tool.input, generation("a"), generation("b"))
    work = tmp_path / "w"
    tool.make(work=work)
    before = (tool.result() / "DONE").stat().st_mtime_ns
    assert "is already there" in ok(tool.call("--workers", 1, work=work))
    assert (tool.result() / "DONE").stat().st_mtime_ns == before
    failed(tool.call("--random-seed", 7, work=work), "random_seed was 42, is now 7")
    failed(tool.call("--trim-prefix", work=work), "trim_prefix was false, is now true")
    write(tool.input, generation("a"))
    failed(tool.call(work=work), "other inputs", str(tool.input))
    (tool.result() / "DONE").unlink()
    failed(tool.call(work=work), "is there without DONE")


def test_a_full_disk_leaves_nothing_half_written(tool: Tool, small_disk: Path) -> None:
    write(tool.input, *(generation("x" * 4000 + str(n)) for n in range(400)))
    failed(tool.call(work=small_disk), "no space left")
    assert [p for p in small_disk.rglob("*") if p.is_file()] == []


def test_the_summary_says_what_happened(tool: Tool) -> None:
    write(tool.input, *(generation(text) for text in ("a", "a", "\\boxed{1}\\boxed{2}", "My solution:\nb")))
    lines = ok(tool.call("--drop-multi-boxed", "--trim-prefix", "--remove-matplotlib")).splitlines()
    assert [line.split("sft-data: ")[1] for line in lines] == [
        "4 rows read",
        "dropped 1 (duplicates)",
        "dropped 1 (drop_multi_boxed)",
        "dropped 0 (remove_matplotlib)",
        "modified 1 (trim_prefix)",
        f"2 rows kept in {tool.result() / 'all.jsonl'}",
    ]


def test_memory_does_not_grow_with_the_data(tool: Tool) -> None:
    """64 MB of rows; two thirds of what they take is Python and numpy."""
    tail = "word " * 6000
    write(tool.input, *(generation(f"{n} {tail}", f"problem {n // 4}") for n in range(2100)))
    assert tool.input.stat().st_size > 60 << 20
    tool.work = tool.folder / "work"
    options = ("--name", "x", "--work", tool.work, "--input-files", tool.input, "--workers", 2)
    # Through a shell: a child's peak begins at the size of what it is forked from, and pytest may hold torch.
    ok(tool.repo.call("sh", "-c", '"$@"; exit $?', "sh", sys.executable, "python/tools/sft_data.py", *options))
    assert tool.done()["rows"]["all"] == 2100
    assert tool.done()["peak_memory_bytes"] < 100 << 20


# --- the script ------------------------------------------------------------------------------------------------------


def test_the_script_takes_its_options_from_the_environment_and_its_arguments(tool: Tool, tmp_path: Path) -> None:
    write(tmp_path / "out 1.jsonl", generation("a"))
    environment = {"INPUT": f"{tmp_path}/out*.jsonl", "NAME": "x", "WORKERS": 1, "WORK": tmp_path / "work"}
    arguments = {"ARGS": """--metadata '{"a": "$(touch pwned) b"}' --no-shuffle"""}
    script = (tool.repo.root / "scripts" / "tool.sh", "sft-data")
    shown = ok(tool.repo.call(*script, "--trim-prefix", **environment, **arguments, DRY_RUN=1))
    assert "--workers 1 --metadata" in shown and shown.endswith("--no-shuffle --trim-prefix\n")
    assert not (tmp_path / "work").exists()
    assert "rows kept" in ok(tool.repo.call(*script, "--trim-prefix", **environment, **arguments))
    tool.work = tmp_path / "work"
    assert json.loads(tool.text()) == {"input": "p", "output": "a", "a": "$(touch pwned) b"}
    assert not (tool.repo.root / "pwned").exists()
    assert tool.done()["recipe"]["trim_prefix"] == "true"
    assert "is already there" in ok(tool.repo.call(*script, "--trim-prefix", **environment, **arguments))
    failed(tool.repo.call(*script, **environment, ARGS="--metadata '{"), "a quote that is not closed")
    failed(tool.repo.call(*script, WORK=tmp_path / "work", NAME="y"), "no input; set INPUT")
    assert "INPUT=" in ok(tool.repo.call(*script, "--help"))
