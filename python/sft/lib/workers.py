"""Run a function over many tasks in worker processes: one error line, and a Ctrl-C that ends them all."""

import ctypes
import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Self, TypeVar

from sft.lib.errors import Interrupted, usage

PR_SET_PDEATHSIG = 1  # linux/prctl.h
KILLED = "a worker was killed, maybe for memory; set WORKERS to fewer, and run it again"

Task = TypeVar("Task")
Result = TypeVar("Result")


def cores(asked: int | None = None) -> int:
    """Number of worker processes: as asked, else one for each core that this process (this job) may use."""
    if asked is not None and asked < 1:
        usage(f"{asked} workers cannot work; set WORKERS to 1 or more")
    return asked or len(os.sched_getaffinity(0))


def start(initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """In a worker: Ctrl-C reaches the whole process group, but it is the parent's to answer; without it we end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.disable()  # tasks make no cycles, and rows by the thousand would have it run all the time
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy, which others import, would start a thread a core in each worker
    if initializer:
        initializer(*arguments)


class Workers:
    """Processes that live as long as the `with` block.

    They are forked: open it before the parent has imported anything with threads of its own.
    """

    def __init__(self, processes: int, initializer: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()):
        self.processes = processes
        context = multiprocessing.get_context("fork")
        self.pool = ProcessPoolExecutor(processes, context, initializer=start, initargs=(initializer, arguments))

    def __enter__(self) -> Self:
        return self

    def submit(self, function: Callable[[Task], Result], task: Task) -> Future[Result]:
        """A Ctrl-C waits until this is over: the first task starts the workers, and Python drops what is raised while
        it forks."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self.pool.submit(function, task)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close(self) -> None:
        """Let idle workers end by themselves, so that their memory is accounted for."""
        self.pool.shutdown()

    def kill(self) -> None:
        """End the workers in the middle of what they do."""
        for process in list((self.pool._processes or {}).values()):
            process.terminate()
        self.pool.shutdown(cancel_futures=True)

    def __exit__(self, *_: object) -> None:
        self.kill()

    def run(
        self, function: Callable[[Task], Result], tasks: Iterable[Task], tick: Callable[[], None] | None = None
    ) -> Iterator[tuple[Task, Result]]:
        """Yield (task, result) as the tasks end, which need not be their order; two tasks a worker are queued.

        tick: called every second or so, for progress. An exception of `function` is raised here (Failure: its line).
        Raises Interrupted when a worker was killed.
        """
        running: dict[Future[Result], Task] = {}
        left = iter(tasks)
        try:
            while True:
                for task in left:
                    running[self.submit(function, task)] = task
                    if len(running) >= 2 * self.processes:
                        break
                if not running:
                    return
                done, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                if tick:
                    tick()
                for future in done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            self.kill()
            raise Interrupted(KILLED) from None
        except Exception:
            self.kill()  # before anybody removes what they write
            raise


def run_all(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    processes: int,
    initializer: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[tuple[Task, Result]]:
    """Workers.run with workers of its own."""
    with Workers(processes, initializer, arguments) as workers:
        yield from workers.run(function, tasks)
