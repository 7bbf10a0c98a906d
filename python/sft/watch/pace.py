"""How training goes, from the record of its steps: pace, loss, cost, and what is not as it should be.

Standard library only. metrics: optimizer step -> row, as sft.engines.saved.history has it.
"""

import fcntl
import math
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from sft.lib.files import read_jsonl
from sft.lib.progress import many
from sft.plan.estimate import BRING_UP

Metrics = dict[int, dict[str, Any]]
LAST = 50  # steps that a pace or a loss is taken of
STALL = 10  # times the median: a step that takes so much longer has stalled
LEAST_STALL = 120  # seconds below which nothing is called a stall


def moment(row: dict[str, Any]) -> float | None:
    """Seconds since the epoch at which a step was logged: nemo-automodel writes ISO, NeMo 2.0's link a number."""
    stamp = row.get("timestamp")
    return datetime.fromisoformat(stamp).timestamp() if isinstance(stamp, str) else stamp


def step_seconds(metrics: Metrics) -> float | None:
    """The median of the last steps; None before there are two."""
    last = list(metrics.values())[-LAST:]
    gaps = [row["seconds"] for row in last if "seconds" in row]
    if not gaps:  # a record that has the time of day instead
        times = [at for row in last if (at := moment(row)) is not None]
        gaps = [b - a for a, b in pairwise(times) if b > a]
    return median(gaps) if gaps else None


def tokens_per_second(metrics: Metrics, tokens: float | None) -> float | None:
    """As the engine measured it, the median of the last steps; else from the counted tokens of a step."""
    rates = [row["tps"] for row in list(metrics.values())[-LAST:] if row.get("tps")]
    pace = step_seconds(metrics)
    if rates:
        return float(median(rates))
    return tokens / pace if tokens and pace else None


def gpu_hours(train: Path, gpus: int) -> float:
    """Hours of all GPUs by the links' own records; a link's is written at each save, and counts to its last one."""
    path = train / "links.jsonl"
    links = {row["link"]: row["seconds"] for row in read_jsonl(path, torn_tail=True)} if path.is_file() else {}
    return sum(links.values()) * gpus / 3600


def rising(metrics: Metrics) -> str | None:
    """A sentence where the mean loss of the last steps is above that of as many before, by 1% and 3 standard errors."""
    losses = [row["loss"] for row in metrics.values() if math.isfinite(row["loss"])]
    if len(losses) < 2 * LAST:
        return None
    now, before = losses[-LAST:], losses[-2 * LAST : -LAST]
    a, b = fmean(before), fmean(now)
    error = math.sqrt((stdev(now) ** 2 + stdev(before) ** 2) / LAST)
    if b - a > max(3 * error, 0.01 * abs(a)):
        return f"the loss rises: {b:.4f} over the last {LAST} steps, {a:.4f} over the {LAST} before"
    return None


def listed(steps: list[int]) -> str:
    """Some steps, with commas; of many the first few."""
    more = f" and {len(steps) - 5} more" if len(steps) > 5 else ""
    return ", ".join(f"{step:,}" for step in steps[:5]) + more


def findings(metrics: Metrics, since: float | None) -> list[str]:
    """What is not as it should be. since: seconds without a step, of a link that runs."""
    found = []
    if broken := [step for step, row in metrics.items() if not math.isfinite(row["loss"])]:
        found.append(f"the loss is not a number at step {listed(broken)}")
    if missing := sorted(set(range(1, max(metrics, default=0))) - metrics.keys()):
        found.append(f"no record of {many(len(missing), 'step')}: {listed(missing)}")
    if words := rising(metrics):
        found.append(words)
    pace = step_seconds(metrics)
    if since is not None and pace and since > max(STALL * pace, LEAST_STALL):
        found.append(
            f"no step for {duration(since)}, {since / pace:,.0f} times the median of {pace:.2f} s; see make logs"
        )
    return found


def silence(train: Path, metrics: Metrics) -> float:
    """Seconds since the last step, or since a link that has none yet should have made its first."""
    records = [train / "checkpoints" / "training.jsonl", *train.glob("logs/*/driver.log")]
    steps = max((file.stat().st_mtime for file in records if file.is_file()), default=0.0)
    links = [path for path in (train / "logs").glob("*") if not path.name.startswith(".")]
    begun = max((born(path) for path in links), default=0.0)
    return max(0.0, time.time() - (steps if steps > begun else begun + BRING_UP))


def active(train: Path, ended: bool = False) -> bool:
    """Whether a link trains: its log grew in the last two minutes. ended: Slurm says that all jobs of the chain have
    ended; then only one on this machine may, and it holds the lock that links take."""
    if ended:
        return locked(train / ".lock")
    logs = [train / "checkpoints" / "training.jsonl", *train.glob("logs/*/driver.log")]
    return any(file.is_file() and time.time() - file.stat().st_mtime < 120 for file in logs)


def locked(file: Path) -> bool:
    """Whether a process on this machine holds a lock, as lock of scripts/lib.sh does."""
    if not file.is_file():
        return False
    with file.open() as held:
        try:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def born(log: Path) -> float:
    """When a link began: in the name of a torchrun log, else that of NeMo-RL's LINK."""
    try:
        return datetime.strptime(log.stem.rsplit("-", 1)[-1], "%Y%m%dT%H%M%S").timestamp()
    except ValueError:
        mark = log / "LINK"
        return mark.stat().st_mtime if mark.is_file() else 0.0


def duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
