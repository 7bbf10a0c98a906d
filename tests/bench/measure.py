"""Run a command, and say how long it took and how much memory all of its processes held at most."""

import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from lib import Failure

EVERY = 0.02  # seconds between two looks at the processes


@dataclass
class Usage:
    """seconds: wall clock. rss: bytes, the peak of the sum over the tree of processes at one time; pages that
    processes share are counted in each of them."""

    seconds: float
    rss: int


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    found, new = [pid], [pid]
    while new:
        children = []
        for parent in new:
            try:
                for task in Path(f"/proc/{parent}/task").iterdir():
                    children += [int(child) for child in (task / "children").read_text().split()]
            except OSError:  # it has just ended
                continue
        found += children
        new = children
    return found


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def measure(command: list[str], env: dict[str, str] | None = None, log: Path | None = None) -> Usage:
    """Raises Failure, with the end of its output, when the command fails; a Ctrl-C ends all of its processes."""
    out = open(log or os.devnull, "wb")
    start, peak, ended = time.monotonic(), 0, threading.Event()
    process = subprocess.Popen(
        command, env=os.environ | (env or {}), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
    )

    def watch() -> None:
        nonlocal peak
        while not ended.wait(EVERY):
            peak = max(peak, sum(map(resident, descendants(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        status = process.wait()
        seconds = time.monotonic() - start
    finally:
        ended.set()
        watcher.join()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        out.close()
    if status:
        tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log else []
        raise Failure(f"{' '.join(command[:3])} ended with status {status} ({' '.join(tail)[:200]}); see {log}")
    return Usage(seconds, peak)
