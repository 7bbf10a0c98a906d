"""What make status says of an evaluation that is under way, from what its jobs write."""

import json
import time
from pathlib import Path

from sft.watch.answers import QUIET, answering


def job(part: Path, name: str, done: int, made: int, tokens: int, seconds: float, ago: float) -> None:
    part.mkdir(exist_ok=True)
    record = {"done": done, "made": made, "total": 500, "tokens": tokens, "seconds": seconds, "time": time.time() - ago}
    (part / f"{name}.progress.json").write_text(json.dumps(record))


def test_answers_tokens_and_time_left(tmp_path: Path) -> None:
    """Two jobs make 2 and 1 answers a second, one is over: 700 of 1,000 are there, 300 are left at 3 a second."""
    assert answering(tmp_path) == ("", "")
    part = tmp_path / ".eval.part"
    job(part, "trained.s.cot.1-of-2", 200, 100, 40_000, 50.0, 1)
    job(part, "trained.s.cot.2-of-2", 100, 50, 30_000, 50.0, 1)
    job(part, "baseline.s.cot.1-of-2", 400, 400, 10_000, 10.0, QUIET + 1)
    (part / "total.json").write_text('{"answers": 1000}')
    assert answering(tmp_path) == ("700/1,000 answers, 1,400 tokens/s", "0:01:40")


def test_the_first_answers_tell_nothing_of_the_time_left(tmp_path: Path) -> None:
    """The first one took 3 s, with the load of the model: not 30 minutes for 600."""
    part = tmp_path / ".eval.part"
    job(part, "baseline.s.cot.1-of-1", 1, 1, 100, 3.0, 1)
    (part / "total.json").write_text('{"answers": 600}')
    assert answering(tmp_path) == ("1/600 answers, 33 tokens/s", "")
    job(part, "baseline.s.cot.1-of-1", 6, 6, 600, 6.0, 1)
    assert answering(tmp_path) == ("6/600 answers, 100 tokens/s", "0:09:54")


def test_nobody_answers(tmp_path: Path) -> None:
    part = tmp_path / ".eval-aime24.part"
    job(part, "trained.s.cot.1-of-1", 10, 10, 40, 5.0, QUIET + 1)
    (part / "total.json").write_text('{"answers": 40}')
    assert answering(tmp_path) == ("10/40 answers, none in the last 120 s", "")
    (part / "trained.s.cot.1-of-1.progress.json").write_text("{")
    assert answering(tmp_path) == ("", ""), "one that is being written is left out"
