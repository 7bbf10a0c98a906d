"""Run a function over many tasks in worker processes: results in order, one error line, a Ctrl-C that ends them all."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from lib import Failure, usage

Task = TypeVar("Task")
Result = TypeVar("Result")


def workers(asked: int | None = None) -> int:
    """Number of worker processes: as asked, else one for each core that this process (this job) may use."""
    if asked is not None and asked < 1:
        usage(f"{asked} workers cannot work; set WORKERS to 1 or more")
    return asked or len(os.sched_getaffinity(0))


def start(initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """Of a worker: Ctrl-C reaches the whole process group, but it is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if initializer:
        initializer(*arguments)


def run_all(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    processes: int,
    initializer: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[tuple[Task, Result]]:
    """Yield (task, result) in the order in which the tasks end; at most 2 tasks a worker are queued at a time.

    Workers are forked: call it before the parent has imported anything with threads. An exception of `function`
    (a Failure with its line) is raised here, after the other workers have been ended.
    Raises Failure when a worker was killed.
    """
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("fork"), initializer=start, initargs=(initializer, arguments)
    )
    running: dict[Future[Result], Task] = {}
    left = iter(tasks)
    try:
        while True:
            for task in left:
                running[pool.submit(function, task)] = task
                if len(running) >= 2 * processes:
                    break
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
        pool.shutdown()
    except BrokenProcessPool:
        raise Failure("a worker was killed, probably for memory; set WORKERS to fewer and run it again") from None
    finally:
        # Not only after an error: also when the caller stops asking.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(cancel_futures=True)
