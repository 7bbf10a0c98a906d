"""Score the untouched base and the model that the run ends with on the recipe's EVAL_SET.

    python python/eval.py tiny 1 --work work

EVAL_SET names the sets:
    squad, dolly                  test rows of the data, put as they were trained; EM, F1, ROUGE-L
    gpqa_main, gpqa_diamond, mmlu multiple choice by the chat template, with detailed thinking on and off: the letter
                                  as people read it, and beside it by the tutorial's own expression
    any other, SCHEMA=nemotron    generated problems, likewise on and off: the last \\boxed{} after the thoughts
    any other                     generated problems in the very prompt that training used: the last \\boxed{}

VARIANT=published asks with thinking on only, as the tutorial does, and gives questions and answers no BOS. Without
EVAL_TEMPERATURE the answers are greedy, else sampled with SEED. Each \\boxed{} is graded by grades.py.

Writes WORK/runs/<model>/round<N>/eval/: one JSONL of generations per model, set and mode, and DONE with the rates. An
interrupted run is gone on with at the first batch that is not there. The base is loaded with its config as published:
patching RoPE is part of training. A result that is a PEFT adapter is attached to the model that training started from.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import chat_template
import metrics
import recipe as recipes
from grades import boxed, correct
from lib import (
    Failure,
    Interrupted,
    Progress,
    is_done,
    log,
    read_done,
    read_jsonl,
    recipe_hash,
    resumable_folder,
    run,
    sha256,
    usage,
    write_done,
)
from openmath import ENDS, PROMPTS, chatml

BATCH = {"random": 50, "hub": 8}  # by BASE_SOURCE
CODE = (
    "chat_template.py",
    "eval.py",
    "grades.py",
    "metrics.py",
    "openmath.py",
)  # answers of other code are not gone on with
QA = ("squad", "dolly")
CHOICE = ("gpqa_main", "gpqa_diamond", "mmlu")
MODES = ("on", "off")
PLAIN = "plain"  # the mode of a set that has none
# A turn may also end with these, where the tokenizer has them; the untouched base of Llama 3.1 does so.
ALSO_ENDS = {"llama3": ("<|end_of_text|>", "<|eom_id|>")}
BOS = "<|begin_of_text|>"
# The prompt of the tutorial, its indentation included (NeMo 8cfedd7 tutorials/llm/reasoning/evaluation/
# deploy_and_get_responses.py:53-58).
CHOICE_PROMPT = (
    "Given the following question and four candidate answers (A, B, C and D), choose the best answer.\n"
    "        Question: {Question} A. {Choice 1} B. {Choice 2} C. {Choice 3} D. {Choice 4}\n"
    "        For simple problems, directly provide the answer with minimal explanation. For complex problems, use "
    "step-by-step format. Always conclude with: The final answer is [the_answer_letter], where the "
    "[the_answer_letter] is one of A, B, C or D."
)

Row = dict[str, Any]


# --- grades ------------------------------------------------------------------------------------------------------


def grade_math(problem: Row, text: str) -> Row:
    answer = boxed(text)
    return {"answer": answer, "correct": correct(problem["expected_answer"], answer)}


def grade_thinking(problem: Row, text: str) -> Row:
    """Only what comes after the last thought counts."""
    rest = metrics.answer_part(text)
    return grade_math(problem, rest or "") | {"think": metrics.thinks(text)}


def grade_choice(problem: Row, text: str) -> Row:
    letter, published = metrics.letter(text), metrics.published_letter(text)
    verdicts = {"correct": letter == problem["Answer"], "published_correct": published == problem["Answer"]}
    return {"answer": letter, "published_answer": published, "think": metrics.thinks(text)} | verdicts


def grade_qa(problem: Row, text: str) -> Row:
    return metrics.answer_scores(text, problem.get("original_answers") or [problem["output"]])


# Of each kind of set: the fields that a row must have, its grade, and figure -> mean of that grade.
@dataclass(frozen=True)
class Kind:
    fields: tuple[str, ...]
    grade: Callable[[Row, str], Row]
    figures: dict[str, Callable[[Row], float]]


def field(name: str) -> Callable[[Row], float]:
    return lambda row: row[name]


CUT = {"no_answer": lambda row: row["answer"] is None, "truncated": field("truncated")}
THOUGHT = CUT | {"think": field("think")}
KINDS = {
    "math": Kind(("problem", "expected_answer"), grade_math, {"pass@1": field("correct")} | CUT),
    "thinking": Kind(("problem", "expected_answer"), grade_thinking, {"accuracy": field("correct")} | THOUGHT),
    "choice": Kind(
        ("Question", "Choice 1", "Choice 2", "Choice 3", "Choice 4", "Answer"),
        grade_choice,
        {"accuracy": field("correct"), "published_regex": field("published_correct")} | THOUGHT,
    ),
    "qa": Kind(
        ("input", "output"),
        grade_qa,
        {name: field(name) for name in metrics.MEASURES} | {"truncated": field("truncated")},
    ),
}


def figures(kind: str, rows: list[Row]) -> dict[str, Any]:
    """n and the rates of graded rows."""
    rates = {name: metrics.mean([float(of(row)) for row in rows]) for name, of in KINDS[kind].figures.items()}
    return {"n": len(rows)} | rates


# --- what is asked -----------------------------------------------------------------------------------------------


@dataclass
class Task:
    """A set in one mode: its rows, and the prompt of each."""

    name: str
    mode: str
    kind: str
    rows: list[Row]
    prompts: list[str]


def kind_of(recipe: recipes.Recipe, name: str) -> str:
    if name in QA:
        return "qa"
    return "choice" if name in CHOICE else "thinking" if recipe.get("SCHEMA") == "nemotron" else "math"


def test_file(recipe: recipes.Recipe, paths: recipes.Paths, name: str, again: str) -> Path:
    """The rows of a set. Raises Failure when they are not there, saying what makes them."""
    folder, remedy = paths.work / "data" / name, f"run: make data {again}"
    if name in QA:
        if recipe.get("SCHEMA") != name:
            usage(f"EVAL_SET={name} needs SCHEMA={name}, of which it takes the test rows; change one")
        read_done(paths.data, remedy)
        return paths.data / "test.jsonl"
    if name in CHOICE:
        read_done(folder, f"run: make eval-data {again}")
        return folder / "test.jsonl"
    path = folder / "source" / "test.jsonl"
    if not path.is_file():
        raise Failure(f"{path} is missing; {remedy}")
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


def chat(tokenizer: Any, mode: str, user: str) -> str:
    """The prompt by the tokenizer's own template, up to the open turn of the assistant."""
    turns = [{"role": "system", "content": f"detailed thinking {mode}"}, {"role": "user", "content": user}]
    return chat_template.render(tokenizer, turns, prompt=True)


def tasks_of(recipe: recipes.Recipe, name: str, rows: list[Row], tokenizer: Any) -> list[Task]:
    """A set in each of its modes. Raises Failure for a tokenizer without the template that it takes."""
    kind, published = kind_of(recipe, name), recipe.get("VARIANT") == "published"
    if kind == "math":
        return [Task(name, PLAIN, kind, rows, [chatml(PROMPTS["cot"].format(problem=row["problem"])) for row in rows])]
    if kind == "qa":
        return [Task(name, PLAIN, kind, rows, [("" if published else BOS) + row["input"] for row in rows])]
    if not tokenizer.chat_template:
        raise Failure(f"{tokenizer.name_or_path}: the tokenizer has no chat template; start from an Instruct model")
    users = [CHOICE_PROMPT.format_map(row) if kind == "choice" else row["problem"] for row in rows]
    modes = MODES[:1] if published else MODES
    return [Task(name, mode, kind, rows, [chat(tokenizer, mode, user) for user in users]) for mode in modes]


# --- answers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """How answers are made. temperature None: greedily; batch: prompts at a time."""

    max_tokens: int
    end: str
    also: tuple[str, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0
    batch: int = BATCH["random"]

    def __str__(self) -> str:
        if self.temperature is None:
            return "greedy"
        return f"temperature {self.temperature:g}, top_p {self.top_p:g}, seed {self.seed}"


def load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, padding_side="left")


def load(folder: Path, config_file: Path, start: Path | None = None) -> Any:
    """A model, ready to generate; an adapter is attached to the model in `start`, wherever it says it belongs."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    adapter = (folder / "adapter_config.json").is_file()
    if adapter and start is None:
        raise Failure(f"{folder} is an adapter, and no model is known for it; report it, this must not be")
    config = AutoConfig.from_pretrained(config_file)
    weights = start if adapter else folder
    model = AutoModelForCausalLM.from_pretrained(weights, config=config, dtype="auto")
    # The model's own settings would fill what ours leave open, such as a repetition penalty.
    model.generation_config = GenerationConfig()
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def ends_of(tokenizer: Any, settings: Settings) -> list[int]:
    """Ids of the tokens that end an answer. Raises Failure when the trained one is none of the tokenizer's."""
    vocabulary = tokenizer.get_vocab()
    if settings.end not in vocabulary:
        raise Failure(f"{tokenizer.name_or_path}: {settings.end} is no token of it, so no answer would end; check CHAT")
    return [vocabulary[token] for token in (settings.end, *settings.also) if token in vocabulary]


def generate(
    model: Any, tokenizer: Any, prompts: list[str], settings: Settings, have: set[int] | None = None
) -> Iterator[dict[int, tuple[str, bool]]]:
    """place -> (text, truncated) of each prompt's answer, without the token that ends it, a batch at a time.

    Prompts of like length share a batch, the longest ones first. have: places that need not be answered; a batch of
    which all are there is left out, and sampling begins anew with each, so what is left out changes nothing.
    """
    import torch
    from transformers import GenerationConfig

    ends = ends_of(tokenizer, settings)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = ends[0]
    sampled: dict[str, Any] = {"do_sample": False}
    if settings.temperature is not None:  # top_k 0: the library would sample from the best 50 only
        sampled = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=settings.max_tokens, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, **sampled
    )
    encoded = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    order = sorted(range(len(prompts)), key=lambda place: -len(encoded[place]))
    for first in range(0, len(order), settings.batch):
        places = order[first : first + settings.batch]
        if have and have.issuperset(places):
            continue
        batch = tokenizer.pad({"input_ids": [encoded[place] for place in places]}, return_tensors="pt")
        torch.manual_seed(settings.seed + first)
        try:
            with torch.inference_mode():
                output = model.generate(**batch.to(model.device), generation_config=config)
        except torch.OutOfMemoryError:
            raise Interrupted(
                f"{len(places)} answers of up to {settings.max_tokens:,} tokens at a time do not fit on the GPU; "
                "set EVAL_BATCH to fewer, and run it again: what is answered is kept"
            ) from None
        answers = {}
        for place, ids in zip(places, output[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            stop = next((n for n, token in enumerate(ids) if token in ends), None)
            answers[place] = (tokenizer.decode(ids[:stop], clean_up_tokenization_spaces=False), stop is None)
        yield answers


def answer(task: Task, target: Path, load_model: Callable[[], Any], tokenizer: Any, settings: Settings) -> list[Row]:
    """The graded rows of a task, from `target` if they are there; else answers are made, and kept as they come."""
    part = target.with_suffix(".part")
    if target.is_file():
        part.unlink(missing_ok=True)
        return list(read_jsonl(target))
    answers: dict[int, tuple[str, bool]] = {}
    if part.is_file():
        answers = {row["place"]: (row["text"], row["truncated"]) for row in read_jsonl(part, torn_tail=True)}
        log(f"eval: {target.stem}: going on with an interrupted run, {len(answers)} answers are there")
        write_rows(part, as_rows(answers))
    progress = Progress(f"eval: {target.stem} answers", len(task.prompts))
    with open(part, "a", encoding="utf-8") as file:
        for made in generate(load_model(), tokenizer, task.prompts, settings, set(answers)):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in as_rows(made))
            file.flush()
            answers |= made
            progress.show(len(answers))
    rows = []
    for place, row in enumerate(task.rows):
        text, truncated = answers[place]
        rows.append(row | {"generation": text, "truncated": truncated} | KINDS[task.kind].grade(row, text))
    whole = target.with_suffix(".whole")
    write_rows(whole, rows)
    whole.rename(target)
    part.unlink()
    return rows


def as_rows(answers: dict[int, tuple[str, bool]]) -> list[Row]:
    return [{"place": place, "text": text, "truncated": cut} for place, (text, cut) in answers.items()]


def write_rows(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


# --- the stage ---------------------------------------------------------------------------------------------------


def settings_of(recipe: recipes.Recipe, batch: int | None) -> Settings:
    temperature, top_p = (float(recipe[key]) if key in recipe else None for key in ("EVAL_TEMPERATURE", "EVAL_TOP_P"))
    if temperature == 0:
        temperature = top_p = None
    chat_ = recipe["CHAT"]
    return Settings(
        int(recipe["EVAL_MAX_TOKENS"]),
        ENDS[chat_],
        ALSO_ENDS.get(chat_, ()),
        temperature,
        top_p,
        int(recipe["SEED"]),
        batch or BATCH["random" if recipe["BASE_SOURCE"] == "random" else "hub"],
    )


def config_of(folder: Path) -> Path:
    """The config that an untouched model is loaded with: as published, where training patched it."""
    original = folder / "config.original.json"
    return original if original.is_file() else folder / "config.json"


def show(scores: dict[str, Any]) -> None:
    """The rates, as lines of the log."""
    for model, name, mode, found in metrics.score_rows(scores):
        rates = ", ".join(f"{what} {rate:.1%}" for what, rate in found.items() if what != "n")
        log(f"eval: {model:<9} {name:<13} {mode:<6} {rates} of {found['n']}")


def main() -> None:
    parser = recipes.parser(__doc__)
    parser.add_argument("--rows", type=int, help="of each set only so many, the first (default: all)")
    parser.add_argument("--batch", type=int, help="prompts at a time (default: 8; 50 for a random base)")
    args, recipe, paths = recipes.open_run(parser)
    if "EVAL_SET" not in recipe:
        raise Failure(f"recipe {args.model} names no EVAL_SET; this version evaluates the recipes that do")
    for option, value in (("EVAL_ROWS", args.rows), ("EVAL_BATCH", args.batch)):
        if value is not None and value < 1:
            usage(f"{option}={value}; give a number from 1 up")
    again = f"MODEL={args.model} ROUND={args.round}"
    names = recipe["EVAL_SET"].split(",")
    files = {name: test_file(recipe, paths, name, again) for name in names}
    stage = "average" if paths.final == paths.average else "convert"
    final = read_done(paths.final, f"run: make {stage} {again}")
    start = read_done(paths.start, f"run: make model {again}")
    # One set of problems, as for OpenMathReasoning: its scores and names are flat.
    flat = [kind_of(recipe, name) for name in names] == ["math"]
    ours = "averaged" if paths.final == paths.average else "trained"
    keys = recipes.stage_keys(recipe, "eval")
    inputs = {"test" if flat else f"test {name}": sha256(path) for name, path in files.items()}
    inputs |= {"baseline": recipe_hash(start["outputs"]), ours: recipe_hash(final["outputs"])}
    if args.rows is not None:
        inputs["rows"] = str(args.rows)
    if is_done(paths.eval, keys, inputs):
        log(f"eval: {paths.eval} is already there")
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sets = {name: read_rows(path, kind_of(recipe, name), args.rows) for name, path in files.items()}
    settings, tokenizer = settings_of(recipe, args.batch), load_tokenizer(paths.start)
    ends_of(tokenizer, settings)
    tasks = [task for name, rows in sets.items() for task in tasks_of(recipe, name, rows, tokenizer)]
    adapter = (paths.final / "adapter_config.json").is_file()
    trained = paths.start / "config.json" if adapter else paths.final / "config.json"
    models = {"baseline": (paths.start, config_of(paths.start)), ours: (paths.final, trained)}
    code = {name: sha256(Path(__file__).with_name(name)) for name in CODE}
    identity = {"recipe": keys, "inputs": inputs, "code": recipe_hash(code)}
    with resumable_folder(paths.eval, identity) as part:
        scores: dict[str, Any] = {}
        for model, (folder, config) in models.items():
            loaded: list[Any] = []

            def load_once(folder: Path = folder, config: Path = config, loaded: list[Any] = loaded) -> Any:
                if not loaded:
                    loaded.append(load(folder, config, paths.start))
                return loaded[0]

            for task in tasks:
                target = part / (f"{model}.jsonl" if flat else f"{model}.{task.name}.{task.mode}.jsonl")
                found = figures(task.kind, answer(task, target, load_once, tokenizer, settings))
                scores.setdefault(model, {}).setdefault(task.name, {})[task.mode] = found
                show({model: {task.name: {task.mode: found}}})
        graders = {"math-verify" if task.kind in ("math", "thinking") else "python/metrics.py" for task in tasks}
        facts = {"grader": ", ".join(sorted(graders)), "decoding": str(settings), "settings": asdict(settings)}
        if flat:
            scores = {model: figures_[names[0]][PLAIN] for model, figures_ in scores.items()}
        else:
            log("eval: all of it:")
            show(scores)
        write_done(part, keys, inputs, scores=scores, **facts)


if __name__ == "__main__":
    run(main)
