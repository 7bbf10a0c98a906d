"""Read what NeMo-RL's driver prints: losses, step times, saves; and follow it while a link runs.

A link's folder holds LINK (JSON: first step, start), driver.log, and the empty files driver and training, whose times
are those at which the driver began and had set up. Following prints progress, and writes the reason into `failed`
as soon as the driver says something after which training goes on wrongly.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft.engines.curves import Curves
from sft.engines.learning import check_step
from sft.lib.errors import Failure
from sft.lib.files import read_json
from sft.lib.progress import log

# v0.7.0 nemo_rl/algorithms/sft.py: 236, 431, 572, 599, 612, 619, 627. Text of the driver begins a line, but Ray writes
# workers' lines between the text and the newline of an unbuffered print, so nothing is asked of a line's end.
SETUP, STEP = re.compile(r"^\s+SETUP COMPLETE"), re.compile(r"^=+ Step (\d+)/(\d+) =+")
FIELDS = {
    "loss": re.compile(r"^  • Loss: (-?\d+\.\d{4}|nan|-?inf)"),
    "mfu": re.compile(r"^  • Training Model Floating Point Utilization: ([\d.]+)%"),
    "seconds": re.compile(r"^  • Total step time: ([\d.]+)s"),
    "save_seconds": re.compile(r"^  • checkpointing: ([\d.]+)s"),
}
# After these NeMo-RL goes on, with another run than was asked for: an optimizer that starts again in mid-run (v0.7.0
# nemo_rl/utils/checkpoint.py:185-190), and a schedule that does not fit what the checkpoint says.
WRONG = {
    "Optimizer will be freshly initialized": "the checkpoint has no optimizer state: training would start without it",
}

Row = dict[str, Any]


# What a terminal takes for colours, and what a progress bar has written before the driver's own text.
NOISE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|.*\r(?=.)")


class Parser:
    """Lines in, rows of finished steps out; `first` is the step that the link resumed from.

    A header counts within its epoch, of which M in "Step N/M" is the length, where it is not that of the whole run. So
    headers that are lost in other text do not shift the steps after them.
    """

    def __init__(self, first: int):
        self.step, self.row, self.set_up, self.resumed = first, Row(), False, first > 0

    def feed(self, line: str) -> Row | None:
        """The row of a step when `line` completes it. Raises Failure for a line after which training is wrong."""
        if self.resumed:
            for words, why in WRONG.items():
                if words in line:
                    raise Failure(f"{why}; move that checkpoint away, and resume from the one before it")
        line = NOISE.sub("", line)
        self.set_up = self.set_up or bool(SETUP.match(line))
        if header := STEP.match(line):
            number, length = int(header[1]), max(1, int(header[2]))
            lost = (number - 1 - self.step) % length
            done, self.step = self.row, self.step + lost + 1
            self.row = Row(step=self.step - 1)
            return done if "loss" in done else None
        for name, pattern in FIELDS.items():
            if self.row and (match := pattern.match(line)):
                self.row[name] = float(match[1])
        return None

    def rest(self) -> Row | None:
        """The last step's row, once there are no more lines."""
        return self.row if "loss" in self.row else None


def rows(folder: Path) -> Iterator[Row]:
    """The steps of one link, counted as nemo-automodel's log counts them: `step` from 0."""
    if not (folder / "LINK").is_file() or not (folder / "driver.log").is_file():
        return
    parser = Parser(read_json(folder / "LINK")["from"])
    parser.resumed = False  # what is over has been judged already
    with open(folder / "driver.log", encoding="utf-8", errors="replace") as file:
        for line in file:
            if row := parser.feed(line.rstrip("\n")):
                yield row
    if row := parser.rest():
        yield row


def links(train: Path) -> list[Path]:
    """The folders of all links, in the order in which they began."""
    found = [path.parent for path in (train / "logs").glob("*/LINK")]
    return sorted(found, key=lambda folder: read_json(folder / "LINK")["started"])


def history(train: Path) -> dict[int, Row]:
    """Optimizer step -> loss and times; of a step that was trained twice the later one."""
    return dict(sorted({row["step"] + 1: row for folder in links(train) for row in rows(folder)}.items()))


def set_up_seconds(folder: Path) -> float | None:
    """What a link's driver took from its start to its first step."""
    began, ready = folder / "driver", folder / "training"
    return max(0.0, ready.stat().st_mtime - began.stat().st_mtime) if ready.is_file() and began.is_file() else None


def summary(folder: Path) -> Row | None:
    """A link for links.jsonl; None when it made no step."""
    made = list(rows(folder))
    if not made:
        return None
    link = read_json(folder / "LINK")
    saves = [row["save_seconds"] for row in made if "save_seconds" in row]
    times = sorted(row["seconds"] for row in made if "seconds" in row and "save_seconds" not in row)
    return {
        "link": link["started"],
        "from": link["from"],
        "step": made[-1]["step"] + 1,
        "seconds": round(sum(row.get("seconds", 0.0) for row in made), 1),
        "step_seconds": times[len(times) // 2] if times else None,
        "set_up_seconds": set_up_seconds(folder),
        "save_seconds": max(saves, default=None),
        "peak_memory_bytes": 0,  # of GPUs, which the driver does not print
    }


def open_curves(folder: Path, first: int) -> Curves:
    """The curves from step `first` on. What the link before should have written is written again: it was told of a
    step by the next one's header, and may have been killed before that."""
    train = folder.parents[1]
    began = [read_json(other / "LINK")["from"] for other in links(train) if other != folder]
    before = min([first, *began[-1:]])
    curves = Curves(train, before, wandb=False)
    for step, row in history(train).items() if before < first else ():
        if before < step <= first:
            curves.log(step, row)
    return curves


def follow(folder: Path, steps: int) -> None:
    """Print progress until the file `end` or `failed` appears; write `failed` when the log says that it must not go on.

    Writes TensorBoard's files, too: NeMo-RL's own are a curve for each link. steps: the recipe's last.
    """
    first = read_json(folder / "LINK")["from"]
    parser, path, shown = Parser(first), folder / "driver.log", 0.0
    curves = open_curves(folder, first)
    while not path.exists():
        if (folder / "end").exists() or (folder / "failed").exists():
            return
        time.sleep(0.2)
    with open(path, encoding="utf-8", errors="replace") as file:
        part = ""
        while True:
            last = (folder / "end").exists() or (folder / "failed").exists()
            while line := file.readline():
                part += line
                if not part.endswith("\n"):
                    break
                line, part, before = part.rstrip("\n"), "", parser.set_up
                try:
                    row = parser.feed(line)
                    if row:  # four digits: a loss of 0.0000 may still be one
                        curves.log(row["step"] + 1, row)
                        check_step(row["step"] + 1, row["loss"], 1)
                except Failure as failure:
                    (folder / "failed").write_text(f"{failure}\n", encoding="utf-8")
                    return
                if parser.set_up and not before:
                    (folder / "training").touch()
                    log("train: the driver has set up")
                if row and time.time() - shown >= 10:
                    shown = time.time()
                    left = (steps - row["step"] - 1) * row.get("seconds", 0.0)
                    log(f"train: step {row['step'] + 1}/{steps}, loss {row['loss']:.4f}, about {left:.0f} s left")
            if last:
                break
            time.sleep(0.2)
    if row := parser.rest():
        curves.log(row["step"] + 1, row)
