"""A model's answers to a task, into files below the evaluation's folder: all of them, or one job's share."""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

from sft.eval.engines.base import Engine, Sampling, ends_of
from sft.eval.engines.driver import answer_all, play_all
from sft.eval.engines.samples import Key, Row, key_of, rows_in, seeds_of
from sft.eval.modes import tir
from sft.eval.modes.genselect import question
from sft.eval.protocols.read import Code, protocol
from sft.eval.sandbox.jail import Jail, open_jail
from sft.eval.sandbox.session import Session, Texts
from sft.eval.scoring import solutions
from sft.eval.tasks import Task, source_of
from sft.lib.errors import Failure, usage
from sft.lib.files import read_json, write_json
from sft.recipe.keys import Recipe
from sft.rows.chat import chatml


@dataclass(frozen=True)
class Share:
    """The part of a job among several: number 1 of 4. Each takes so many of a task's answers, in their order."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"

    def of(self, keys: Sequence[Key]) -> list[Key]:
        return list(keys[len(keys) * (self.number - 1) // self.count : len(keys) * self.number // self.count])


ALL = Share(1, 1)


def read_share(text: str) -> Share:
    """2/8: the second of eight. Raises Failure (status 2)."""
    found = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", text)
    if not found or int(found[1]) > int(found[2]):
        usage(f"--share {text}; give NUMBER/COUNT, like 2/8 for the second of eight jobs")
    return Share(int(found[1]), int(found[2]))


def samples_files(part: Path, model: str, task: Task) -> list[Path]:
    """The files with answers of a task, finished or not, whatever the share."""
    return sorted(part.glob(f"{model}.{task.name}.{task.mode}.*-of-*.samples.jsonl*"))


def read_answers(part: Path, model: str, task: Task) -> Iterator[Row]:
    """The answers of a task, each once, sample by sample. Raises Failure where some are missing."""
    wanted = set(keys_of(task))
    for row in chain.from_iterable(rows_in(path) for path in samples_files(part, model, task)):
        if key_of(row) in wanted:
            wanted.remove(key_of(row))
            yield row
    if wanted:
        raise Failure(
            f"{len(wanted):,} of {len(task.rows) * task.samples:,} answers of {model} to {task.name} {task.mode} are "
            "missing; run: make eval again, it goes on where it was"
        )


def keys_of(task: Task) -> list[Key]:
    return [(task.name, problem, sample) for sample in range(task.samples) for problem in task.ids]


def answer(
    recipe: Recipe,
    task: Task,
    model: str,
    part: Path,
    engine: Callable[[], Engine],
    tokenizer: Any,
    share: Share,
    tasks: Sequence[Task],
) -> None:
    """Make the answers of a share that are in no file yet. Raises Interrupted when the engine cannot go on."""
    seed = recipe["SEED"]
    target = part / f"{model}.{task.name}.{task.mode}.{share}.samples.jsonl"
    others = (path for path in samples_files(part, model, task) if not path.name.startswith(target.name))
    there = {key_of(row) for path in others for row in rows_in(path)}
    seeds = seeds_of([(task.name, problem) for problem in task.ids], task.samples, seed)
    seeds = {key: seeds[key] for key in share.of(list(seeds)) if key not in there}
    decoding = task.decoding
    sampling = Sampling(
        decoding.temperature,
        ends_of(tokenizer, decoding.ends),
        decoding.top_p,
        decoding.top_k,
        decoding.min_p,
        decoding.repetition_penalty,
    )

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    if task.mode == "genselect":
        rules = protocol(recipe["EVAL_PROTOCOL"])
        mode, texts = rules.mode(task.mode), {id_: row["problem"] for id_, row in zip(task.ids, task.rows, strict=True)}
        solved = solutions(source_of(task, tasks), partial(read_answers, part, model, source_of(task, tasks)), rules)

        def compare(key: Key) -> list[int] | None:
            problem = key[1]
            asked = question(mode, texts[problem], solved[problem], seed, f"{task.name}/{problem}", key[2])
            return encode(chatml(asked)) if asked else None

        answer_all(engine, sampling, compare, target, seeds, decoding.max_tokens)
        return
    prompts = dict(zip(task.ids, task.prompts, strict=True))
    encoded = cache(lambda problem: encode(prompts[problem]))
    code = protocol(recipe["EVAL_PROTOCOL"]).mode("tir").code if task.mode == "tir" else None
    if code is None:
        answer_all(engine, sampling, lambda key: encoded(key[1]), target, seeds, decoding.max_tokens)
        return
    jail = sandbox()

    def play(key: Key, complete: tir.Complete) -> Row:
        return conversation(jail, code, complete, prompts[key[1]], decoding.max_tokens, encode)

    play_all(engine, sampling, play, target, seeds, seed, encode)


def longest(recipe: Recipe, tasks: Sequence[Task], tokenizer: Any) -> int:
    """Tokens of the longest prompt and answer together, with room for what code prints and for what is compared."""
    found = 0
    for task in tasks:
        mode = protocol(recipe["EVAL_PROTOCOL"]).mode(task.mode) if task.kind == "math" else None
        prompts = task.prompts or [row["problem"] for row in task.rows]
        most = max(len(ids) for ids in tokenizer(prompts, add_special_tokens=False)["input_ids"])
        if mode and mode.code:  # both streams and the message, of each call; a token has a character at least
            most += mode.code.calls * 2 * (mode.code.characters + 200)
        if mode and mode.candidates and mode.summary_characters:
            most += len(mode.prompt) + mode.candidates * mode.summary_characters // 2
        found = max(found, most + task.decoding.max_tokens)
    return found


# --- code --------------------------------------------------------------------------------------------------------


@cache
def sandbox() -> Jail:
    """Where the model's code runs. Raises Failure where it cannot be kept apart; EVAL_WEAK_SANDBOX=yes allows that."""
    place = Path(os.environ.get("SANDBOX_VENV") or Path(sys.prefix) / "sandbox")
    return open_jail(place, weak=os.environ.get("EVAL_WEAK_SANDBOX") == "yes")


def conversation(
    jail: Jail, code: Code, complete: tir.Complete, prompt: str, max_tokens: int, encode: Callable[[str], list[int]]
) -> Row:
    """One sample with code, as a row of the samples' file has it."""
    style = "release" if code.state == "replay" else "today"
    with Session(jail, Texts(style, code.timed_out, code.characters), code.seconds) as session:
        made = tir.generate(complete, session, prompt, max_tokens, code, encode)
    row = {"text": made["generation"], "tokens": made["tokens"], "finish": "length" if made["truncated"] else "stop"}
    return row | {"calls": made["calls"], "timeouts": made["timeouts"]}


# --- what made them ----------------------------------------------------------------------------------------------


@contextmanager
def machine(open_: Callable[[], Engine], record: Path) -> Iterator[Callable[[], Engine]]:
    """The engine, opened when it is first asked for; what it was, and its seconds, are added to `record`."""
    opened: list[Engine] = []
    start = time.monotonic()

    def engine() -> Engine:
        if not opened:
            opened.append(open_())
        return opened[0]

    try:
        yield engine
    finally:
        if opened:
            facts = opened[0].facts()
            opened[0].close()
            if image := os.environ.get("SFT_IMAGE"):
                facts["image"] = image
            if sandbox.cache_info().currsize:
                facts["sandbox"] = sandbox().facts()
            before = read_json(record)["seconds"] if record.is_file() else 0.0
            facts |= {"engine_version": facts.pop("version", None), "hardware": facts.pop("device", None)}
            write_json(record, facts | {"seconds": round(before + time.monotonic() - start, 1)})


def machines(part: Path, gpus: int) -> dict[str, Any]:
    """What made all answers of an evaluation, for its DONE. gpus: of each job, 0 on a CPU. Several values stand as a
    list."""
    found = [read_json(path) for path in sorted(part.glob("*.machine.json"))]
    seconds = sum(one.pop("seconds") for one in found)
    made: dict[str, Any] = {}
    for name in sorted({name for one in found for name in one}):
        values = list({json.dumps(one[name], sort_keys=True): one[name] for one in found if name in one}.values())
        made[name] = values[0] if len(values) == 1 else values
    made["seconds"] = round(seconds, 1)
    return made | ({"gpu_hours": round(seconds * gpus / 3600, 3)} if gpus else {})
