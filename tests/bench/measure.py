"""Run a command, and say how long it took and how much memory all of its processes held at most."""

import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from sft.lib.errors import Failure

EVERY, EVERY_PSS = 0.02, 0.2  # seconds between two looks at the processes; the second takes the kernel a page walk
SHARE = 20  # a look waits at least this many times as long as the one before it took: under 5% of a core


@dataclass
class Usage:
    """seconds: wall clock. rss: bytes, the peak of the sum over the tree of processes at one time; pages that
    processes share are counted in each of them. pss: the same with each shared page divided among its processes, seen
    less often; 0 where the kernel does not say."""

    seconds: float
    rss: int
    pss: int


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


def proportional(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:")), 0)


def measure(command: list[str], env: dict[str, str] | None = None, log: Path | None = None) -> Usage:
    """Raises Failure, with the end of its output, when the command fails; a Ctrl-C ends all of its processes."""
    out = open(log or os.devnull, "wb")
    start, rss, pss, ended = time.monotonic(), 0, 0, threading.Event()
    process: subprocess.Popen | None = None

    def watch(pid: int) -> None:
        nonlocal rss, pss
        pause, due = EVERY, 0.0
        while not ended.wait(pause):
            begun = time.monotonic()
            found = descendants(pid)
            rss = max(rss, sum(map(resident, found)))
            seen = time.monotonic()
            pause = max(EVERY, SHARE * (seen - begun))
            if seen >= due:
                pss = max(pss, sum(map(proportional, found)))
                now = time.monotonic()
                due = now + max(EVERY_PSS, SHARE * (now - seen))

    try:
        process = subprocess.Popen(
            command, env=os.environ | (env or {}), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        watcher = threading.Thread(target=watch, args=(process.pid,), daemon=True)
        watcher.start()
        status = process.wait()
        seconds = time.monotonic() - start
        ended.set()
        watcher.join()
    finally:
        ended.set()
        if process and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.close()
    if status:
        tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log else []
        raise Failure(f"{' '.join(command[:3])} ended with status {status} ({' '.join(tail)[:200]}); see {log}")
    return Usage(seconds, rss, pss)
