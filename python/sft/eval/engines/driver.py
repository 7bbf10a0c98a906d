"""Answers of a model, from whatever engine, into a file: only those that are missing, each kept when it comes."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sft.eval.engines.base import Completion, Engine, Request, Sampling
from sft.eval.engines.samples import Key, Row, Samples
from sft.eval.engines.turns import Turns
from sft.eval.modes.tir import Complete
from sft.lib.files import write_json
from sft.lib.progress import Progress, log, ratio


def row_of(key: Key, seed: int, made: Completion) -> Row:
    benchmark, problem, sample = key
    row = {"benchmark": benchmark, "problem": problem, "sample": sample, "seed": seed}
    return row | {"text": made.text, "tokens": made.tokens, "finish": made.reason}


def answer_all(
    engine: Callable[[], Engine],
    sampling: Sampling,
    prompt: Callable[[Key], Sequence[int] | None],
    target: Path,
    seeds: dict[Key, int],
    max_tokens: int,
) -> None:
    """The answers of `seeds`, asked for in its order, into the file `target`: <name>.samples.jsonl.

    engine: opens it, and is called only if an answer is missing. prompt: the tokens that are asked, made by the
    training formatter; None: there is nothing to ask, and the answer is empty. A prompt that leaves no room in the
    model's positions is answered by a truncated row without text. Raises Interrupted when the engine cannot go on: what
    is answered is kept.
    """
    kept = Samples(target, seeds)
    if missing := kept.missing():
        opened = engine()
        report = Report(target, len(seeds), kept.resumed)
        with kept:

            def source() -> Iterator[Request]:
                for key in missing:
                    ids = prompt(key)
                    room = 0 if ids is None else min(max_tokens, opened.positions - len(ids))
                    if ids is not None and room < max_tokens:
                        report.rooms[key[:2]] = room
                    if ids is None or room < 1:
                        kept.add(row_of(key, seeds[key], Completion("", 0, "stop" if ids is None else "length")))
                        report.done(0)
                    else:
                        yield Request(key, tuple(ids), room, seeds[key])

            for finished in opened.run(source(), sampling):
                if finished:
                    request, made = finished
                    kept.add(row_of(request.key, request.seed, made))  # type: ignore[arg-type]
                    report.done(made.tokens)
        report.say_rooms(max_tokens, opened.positions)
    kept.finish()


def play_all(
    engine: Callable[[], Engine],
    sampling: Sampling,
    play: Callable[[Key, Complete], Row],
    target: Path,
    seeds: dict[Key, int],
    seed: int,
    encode: Callable[[str], list[int]],
    threads: int | None = None,
) -> None:
    """As `answer_all`, of conversations of several turns: play has one, and returns what its row holds beside its key.

    seed: of the run, from which each turn has one; threads: conversations at once. play is called in threads.
    """
    kept = Samples(target, seeds)
    if missing := kept.missing():
        report = Report(target, len(seeds), kept.resumed)
        with kept:
            for key, row in Turns(engine(), sampling, play, seed, encode, threads).run(missing):
                names = dict(zip(("benchmark", "problem", "sample"), key, strict=True))
                kept.add(names | {"seed": seeds[key]} | row)
                report.done(row.get("tokens", 0))
    kept.finish()


class Report:
    """Samples done, tokens per second and the time that is left, every few seconds: in the log, and beside the file of
    answers for make status."""

    def __init__(self, target: Path, total: int, resumed: int):
        name = target.name.removesuffix(".samples.jsonl")
        if resumed:
            log(f"eval: {name}: going on with an interrupted run, {resumed:,} of {total:,} answers are there")
        self.progress = Progress(f"eval: {name}", total - resumed)
        self.name, self.count, self.tokens = name, 0, 0
        self.record, self.total, self.resumed, self.written = (
            target.with_name(f"{name}.progress.json"),
            total,
            resumed,
            0.0,
        )
        self.rooms: dict[tuple[str, str], int] = {}  # problems that may have fewer tokens than was asked for

    def done(self, tokens: int) -> None:
        self.count += 1
        self.tokens += tokens
        now = time.time()
        spent = now - self.progress.start
        self.progress.show(self.count, note=f", {ratio(self.tokens, spent)} tokens/s")
        if now - self.written > self.progress.every or self.count + self.resumed == self.total:
            self.written = now
            made = {"made": self.count, "done": self.count + self.resumed, "total": self.total, "tokens": self.tokens}
            write_json(self.record, made | {"seconds": round(spent, 1), "time": round(now)})

    def say_rooms(self, max_tokens: int, positions: int) -> None:
        """Say where the model's positions allow less than was asked for: its score is of a smaller budget."""
        none = sum(room < 1 for room in self.rooms.values())
        if less := [room for room in self.rooms.values() if room > 0]:
            log(
                f"eval: {self.name}: {len(less):,} problems were answered with fewer than {max_tokens:,} tokens, "
                f"the least {min(less):,}: the model has {positions:,} positions"
            )
        if none:
            log(
                f"eval: {self.name}: {none:,} problems leave no room for an answer in {positions:,} positions; "
                "they count as cut"
            )
