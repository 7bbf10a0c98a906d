"""What is asked: the prompts of each set in each mode, how answers are decoded, and how many there are of a problem."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sft.eval.benchmarks.pins import pins
from sft.eval.benchmarks.prepare import folder_of
from sft.eval.kinds import BOS, CHOICE, CHOICE_PROMPT, KINDS, MODES, PLAIN, QA, Row
from sft.eval.protocols.read import Mode, protocol
from sft.lib.done import read_done
from sft.lib.errors import Failure, usage
from sft.lib.files import read_jsonl
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths
from sft.rows.chat import ENDS, chatml, render

# A turn may also end with these, where the tokenizer has them; the untouched base of Llama 3.1 does so.
ALSO_ENDS = {"llama3": ("<|end_of_text|>", "<|eom_id|>")}


@dataclass(frozen=True)
class Decoding:
    """How answers are made. temperature 0: greedily. ends: tokens that end a turn; the first is the trained one."""

    max_tokens: int
    ends: tuple[str, ...]
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __str__(self) -> str:
        if self.temperature == 0:
            return "greedy"
        return f"temperature {self.temperature:g}, top_p {self.top_p:g}, seed {self.seed}"


@dataclass
class Task:
    """A set in one mode. prompts: of each row; none of genselect, whose prompts hold other answers."""

    name: str
    mode: str
    kind: str
    rows: list[Row]
    decoding: Decoding
    samples: int = 1
    sampled: bool = False  # several samples of each problem were asked for
    prompts: list[str] = field(default_factory=list)

    @property
    def grader(self) -> str:
        """What grades it, where no protocol names a rule."""
        return "math-verify" if self.kind == "thinking" else "python/sft/eval/metrics.py"

    @property
    def ids(self) -> list[str]:
        return [row["id"] if isinstance(row.get("id"), str) else str(place) for place, row in enumerate(self.rows)]


# --- the sets ----------------------------------------------------------------------------------------------------


def kind_of(recipe: Recipe, name: str) -> str:
    if name in QA:
        return "qa"
    return "choice" if name in CHOICE else "thinking" if recipe["SCHEMA"] == "nemotron" else "math"


def test_file(recipe: Recipe, paths: Paths, name: str, again: str) -> Path:
    """The rows of a set. Raises Failure when they are not there, saying what makes them."""
    folder, remedy = paths.work / "data" / name, f"run: make data {again}"
    if name in QA:
        if recipe["SCHEMA"] != name:
            usage(f"EVAL_SET={name} needs SCHEMA={name}, of which it takes the test rows; change one")
        read_done(paths.data, remedy)
        return paths.data / "test.jsonl"
    if name in CHOICE:
        read_done(folder, f"run: make eval-data {again}")
        return folder / "test.jsonl"
    bench = folder_of(paths.work, name)
    if name in pins() or bench.is_dir():
        read_done(bench, f"run: make eval-data {again} BENCH={name}")
        return bench / "test.jsonl"
    path = folder / "source" / "test.jsonl"
    if not path.is_file():
        raise Failure(f"{path} is missing; {remedy}, or make eval-data for a benchmark")
    return path


def read_rows(path: Path, kind: str, most: int | None) -> list[Row]:
    """The first rows of a set, all of them without `most`. Raises Failure for a row without a field."""
    rows: list[Row] = []
    for number, row in enumerate(read_jsonl(path), 1):
        if most is not None and number > most:
            break
        for name in KINDS[kind].fields:
            if not isinstance(row.get(name), str):
                raise Failure(f"{path}:{number}: field {name!r} is not there, or no text; make the set again")
        rows.append(row)
    if not rows:
        raise Failure(f"{path} has no rows; make the set again")
    return rows


# --- prompts -----------------------------------------------------------------------------------------------------


def chat(tokenizer: Any, mode: str, user: str) -> str:
    """The prompt by the tokenizer's own template, up to the open turn of the assistant."""
    turns = [{"role": "system", "content": f"detailed thinking {mode}"}, {"role": "user", "content": user}]
    return render(tokenizer, turns, prompt=True)


def trained_frame(recipe: Recipe, paths: Paths) -> tuple[str, str] | None:
    """What stood before and after the problem in the prompts of prepared data; None for data that is rendered here.

    Raises Failure where the data does not tell.
    """
    if recipe["DATASET_SOURCE"] != "prepared":
        return None
    frame = read_done(paths.data, "run: make sft-data").get("prompt_frame")
    if not isinstance(frame, list) or len(frame) != 2:
        raise Failure(f"{paths.data}/DONE does not say how its prompts are made; make it again with --prompt-config")
    return frame[0], frame[1]


def math_prompt(frame: tuple[str, str] | None, mode: Mode, problem: str) -> str:
    """The prompt that training used, with the protocol's words: a chat endpoint's template would add others."""
    if frame:
        return problem.join(frame)
    calls = {"total_code_executions": mode.code.calls} if mode.code else {}
    return chatml(mode.prompt.format(problem=problem, **calls))


def decoding_of(recipe: Recipe, mode: Mode | None, sampled: bool) -> Decoding:
    """The protocol's sampling, else the recipe's. A benchmark without a number of samples is greedy, as `ns eval` is
    (NeMo-Skills 8b18f39 nemo_skills/pipeline/eval.py:55-62)."""
    end = ENDS[recipe["CHAT"]]
    if mode is None:
        ends = (end, *ALSO_ENDS.get(recipe["CHAT"], ()))
        greedy = Decoding(recipe["EVAL_MAX_TOKENS"], ends, seed=recipe["SEED"])
        if "EVAL_TEMPERATURE" not in recipe or recipe["EVAL_TEMPERATURE"] == 0:
            return greedy
        return replace(greedy, temperature=recipe["EVAL_TEMPERATURE"], top_p=recipe["EVAL_TOP_P"])
    longest = recipe["EVAL_MAX_TOKENS"] if "EVAL_MAX_TOKENS" in recipe and not mode.candidates else mode.max_tokens
    ends = tuple(dict.fromkeys((end, *ALSO_ENDS.get(recipe["CHAT"], ()), *mode.stop)))
    if not sampled:
        return Decoding(longest, ends, repetition_penalty=mode.repetition_penalty, seed=recipe["SEED"])
    chosen = (mode.temperature, mode.top_p, mode.top_k, mode.min_p, mode.repetition_penalty)
    return Decoding(longest, ends, *chosen, seed=recipe["SEED"])


def tasks_of(recipe: Recipe, paths: Paths, name: str, samples: int, rows: list[Row], tokenizer: Any) -> list[Task]:
    """A set in each of its modes. samples: 0 for one greedy answer.

    Raises Failure for a tokenizer without the template that it takes, and for a mode that the protocol does not have.
    """
    kind, published = kind_of(recipe, name), recipe.get("VARIANT") == "published"
    if kind == "math":
        rules, frame = protocol(recipe["EVAL_PROTOCOL"]), trained_frame(recipe, paths)
        found = []
        for mode in recipe["EVAL_MODE"]:
            of = rules.mode(mode)
            prompts = [] if of.candidates else [math_prompt(frame, of, row["problem"]) for row in rows]
            decoding = decoding_of(recipe, of, bool(samples))
            found.append(Task(name, mode, kind, rows, decoding, samples or 1, bool(samples), prompts))
        return found
    decoding = decoding_of(recipe, None, False)
    if kind == "qa":
        return [
            Task(name, PLAIN, kind, rows, decoding, prompts=[("" if published else BOS) + r["input"] for r in rows])
        ]
    if not tokenizer.chat_template:
        raise Failure(f"{tokenizer.name_or_path}: the tokenizer has no chat template; start from an Instruct model")
    users = [CHOICE_PROMPT.format_map(row) if kind == "choice" else row["problem"] for row in rows]
    return [
        Task(name, mode, kind, rows, decoding, prompts=[chat(tokenizer, mode, user) for user in users])
        for mode in (MODES[:1] if published else MODES)
    ]


def in_order(tasks: Sequence[Task]) -> list[Task]:
    """Tasks with those last that are made of the answers of others."""
    return sorted(tasks, key=lambda task: task.mode == "genselect")


def source_of(task: Task, tasks: Sequence[Task]) -> Task:
    """The task whose answers a genselect task selects among: with code where there are such, as published."""
    same = {other.mode: other for other in tasks if other.name == task.name}
    return same["tir"] if "tir" in same else same["cot"]
