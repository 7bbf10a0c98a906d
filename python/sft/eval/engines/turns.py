"""Many conversations on one engine: each asks, waits, runs code and asks again, in a thread of its own.

The engine's loop is in the caller's thread. Code calls and comparisons are written as if each were alone.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from sft.eval.engines.base import Completion, Engine, Request, Sampling, seed_of
from sft.eval.engines.samples import Key
from sft.eval.modes.tir import Complete, Prompt

Result = TypeVar("Result")


class Closed(Exception):
    """The engine is gone: raised in a conversation that still asks it something."""


class Turns(Generic[Result]):
    """run: yields (key, result of play) of each conversation, in the order in which they end.

    play: has one conversation; it may ask its `complete` any number of times. seed: of the run; each turn of a
    conversation has a seed of its own. encode: text -> tokens, for prompts that are text. threads: at once.
    """

    def __init__(
        self,
        engine: Engine,
        sampling: Sampling,
        play: Callable[[Key, Complete], Result],
        seed: int,
        encode: Callable[[str], list[int]],
        threads: int | None = None,
    ):
        self.engine, self.sampling, self.play, self.seed, self.encode = engine, sampling, play, seed, encode
        self.threads = threads or engine.width
        # (request, where its answer goes), (key, result or what went wrong), or None: a thread is over.
        self.events: queue.SimpleQueue[tuple[Any, Any] | None] = queue.SimpleQueue()
        self.asking: dict[tuple[Any, ...], Future[Completion]] = {}
        self.ended: list[tuple[Key, Result | BaseException]] = []
        self.lock, self.closed = threading.Lock(), False

    def run(self, keys: Iterable[Key]) -> Iterator[tuple[Key, Result]]:
        waiting = iter(keys)
        self.alive = self.threads
        for _ in range(self.threads):
            threading.Thread(target=self.work, args=(waiting,), daemon=True).start()
        try:
            for finished in self.engine.run(self.source(), self.sampling):
                if finished:
                    self.asking.pop(finished[0].key).set_result(finished[1])
                yield from self.results()
            yield from self.results()
        finally:
            self.close()

    def results(self) -> Iterator[tuple[Key, Result]]:
        while self.ended:
            key, result = self.ended.pop(0)
            if isinstance(result, BaseException):
                raise result
            yield key, result

    def source(self) -> Iterator[Request | None]:
        """What the threads ask, until all are over. Waits for them only when the engine has nothing to do."""
        while self.alive:
            try:
                event = self.events.get(block=not self.asking and not self.ended)
            except queue.Empty:
                yield None
                continue
            if event is None:
                self.alive -= 1
            elif isinstance(event[1], Future):
                self.asking[event[0].key] = event[1]
                yield event[0]
            else:
                self.ended.append(event[1])  # handed on when nobody asks: None would cut a batch short

    def work(self, waiting: Iterator[Key]) -> None:
        """One thread: conversation after conversation."""
        while True:
            with self.lock:
                key = None if self.closed else next(waiting, None)
            if key is None:
                break
            try:
                result: Result | BaseException = self.play(key, self.complete(key))
            except BaseException as error:
                result = error
            self.events.put((None, (key, result)))
        self.events.put(None)

    def complete(self, key: Key) -> Complete:
        """The engine as a function, for one conversation."""
        turn = 0

        def complete(prompt: Prompt, stop: Sequence[str], max_tokens: int) -> Completion:
            nonlocal turn
            ids = tuple(self.encode(prompt) if isinstance(prompt, str) else prompt)
            room = min(max_tokens, self.engine.positions - len(ids))
            if room < 1:
                return Completion("", 0, "length")
            request = Request((*key, turn), ids, room, seed_of(self.seed, *key, turn), tuple(stop))
            turn += 1
            answer: Future[Completion] = Future()
            with self.lock:
                if self.closed:
                    raise Closed
                self.events.put((request, answer))
            return answer.result()

        return complete

    def close(self) -> None:
        """Let go of the threads: those that wait for an answer, and those that will ask for one."""
        with self.lock:
            self.closed = True
        while not self.events.empty():
            event = self.events.get()
            if event and isinstance(event[1], Future):
                self.asking[event[0].key] = event[1]
        for answer in self.asking.values():
            answer.set_exception(Closed())
