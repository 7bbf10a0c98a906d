"""What a long stage says while it runs, and what it used."""

import resource
import time

START = time.time()


def log(message: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {message}", flush=True)


def ratio(part: float, whole: float, form: str = ",.0f") -> str:
    """part / whole for people, in the format `form`; "-" where whole is not above zero.

    A measured time may be 0.0, for it is rounded or the clock stands, and below it when the clock was set back; a
    count or a size may be nothing.
    """
    return f"{part / whole:{form}}" if whole > 0 else "-"


def many(count: int, noun: str) -> str:
    """A count and its noun: 1 node, 2 nodes."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class Progress:
    """Rows or bytes done, rate and remaining time, at most one line every few seconds."""

    def __init__(self, what: str, total: int | None = None, every: float = 5.0):
        self.what, self.total, self.every = what, total, every
        self.start = self.shown = time.time()

    def show(self, done: int, share: float | None = None, note: str = "") -> None:
        """done: units so far; share: of the whole work, where it is better known than the number of units."""
        now = time.time()
        if now - self.shown < self.every or done == 0:
            return
        self.shown = now
        spent = now - self.start
        share = done / self.total if self.total else share
        of = f" of {self.total:,}" if self.total else f", {share:.0%}" if share else ""
        left = f", {spent / share - spent:.0f} s left" if share else ""
        log(f"{self.what}: {done:,}{of}{left} ({ratio(done, spent)}/s{note})")


def peak_memory() -> int:
    """Bytes: the larger of this process' and its largest child's peak resident size."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024
