"""A clock that a test sets: processes that are started with `environment` read the days from it."""

from pathlib import Path

SITE = """
import datetime as module, os
real = module.datetime

class Clock(real):
    day = real.fromisoformat(os.environ["FAKE_DAY"])

    @classmethod
    def now(cls, tz=None):
        cls.day += module.timedelta(days=1)  # midnight passes between any two readings
        return cls.day

module.datetime = Clock
"""


def environment(folder: Path, day: str, path: Path) -> dict[str, str]:
    """Variables for a Python for which it is some day after `day` (ISO), another one at each reading.

    folder: where the clock is written to; path: what else PYTHONPATH names.
    """
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITE)
    return {"FAKE_DAY": day, "PYTHONPATH": f"{folder}:{path}"}
