"""The curves of a run while it trains: TensorBoard's files always, and wandb where WANDB_PROJECT names a project.

Both get what training.jsonl has of a step, as train/<name>, which is how NeMo-RL names it; a step counts from 1. All
links of a chain are one curve: they write into train/tensorboard/, and wandb's id of the run is the same.

Not the engines' own loggers. nemo-automodel 0.7.0 has none for TensorBoard. NeMo 2.0's writes every tenth step of the
tutorials, keeps what a killed link trained in vain, and its NeMoLogger takes the run's id away from wandb (2.5.3
nemo/lightning/nemo_logger.py:186-204). Both engines end with an error of wandb's; here training goes on without it.
NeMo-RL has its own for wandb, and gets what run_id() and project() say.
"""

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from sft.engines.events import EventFile
from sft.engines.saved import losses
from sft.lib.errors import Failure
from sft.lib.files import read_json, write_json
from sft.lib.progress import log

FINISH = 60.0  # seconds that wandb has at the end of a link; without its server it would try for ever
OTHER = {"step", "timestamp", "epoch"}  # of a row: not what is measured


def project() -> str:
    """wandb's project; empty: no wandb."""
    return os.environ.get("WANDB_PROJECT", "")


def run_id(train: Path) -> str:
    """wandb's id and name of a run: the same for all links, another for a run on other data. train: with its RUN."""
    data = read_json(train / "RUN")["inputs"]["data"]
    return f"{train.parent.parent.name}-{train.parent.name}-{data[:8]}"


def check() -> None:
    """Raise Failure where wandb is asked for and this Python does not have it: before anything is trained."""
    found = importlib.util.find_spec("wandb") if project() else None
    if project() and not (found and found.origin):
        raise Failure(
            f"WANDB_PROJECT is set, and {sys.executable} has no package wandb; run: scripts/setup.sh loggers (in an "
            "image: install wandb), or unset it"
        )


class Sink(Protocol):
    def write(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class Wandb:
    """A run of wandb, below `train`. Without an answer from the server it is recorded there, to be sent later.

    A link that is killed takes the steps with it that wandb has not yet sent or written, a hundred or more. LOGGED is
    the last step of a link that ended well: the next one repeats from the record what came after.
    """

    def __init__(self, train: Path, first: int):
        import wandb

        self.step, self.logged = first, train / "wandb" / "LOGGED"
        name = run_id(train)
        settings = wandb.Settings(silent=True, console="off")  # a link's output is in its log
        options: dict[str, Any] = {"project": project(), "name": name, "id": name, "resume": "allow", "dir": str(train)}
        options |= {"config": read_json(train / "RUN")["recipe"], "settings": settings}
        try:
            self.run = wandb.init(**options)
        except Exception as error:
            wandb.teardown()  # else the id is in use
            self.run = wandb.init(**options, mode="offline")
            log(f"train: wandb cannot be reached ({brief(error)}); later: wandb sync {Path(self.run.dir).parent}")
        known = read_json(self.logged)["step"] if self.logged.is_file() else 0
        for step, row in losses(train / "checkpoints").items():
            if known < step <= first:
                self.write(step, numbers(row))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)
        self.step = step

    def close(self) -> None:
        """Wait for what is on its way, but no longer than FINISH: a link has to end. Raises whatever went wrong."""
        errors: list[Exception] = []
        finish = threading.Thread(target=self._finish, args=(errors,), daemon=True)
        finish.start()
        finish.join(FINISH)
        if finish.is_alive():
            for pid in services():  # or wandb would wait for it again when Python exits
                os.kill(pid, signal.SIGKILL)
            raise TimeoutError(f"no answer for {FINISH:.0f} s; the next link sends what is missing")
        for error in errors:
            raise error
        self.logged.parent.mkdir(exist_ok=True)
        write_json(self.logged, {"step": self.step})

    def _finish(self, errors: list[Exception]) -> None:
        try:
            self.run.finish(quiet=True)
        except Exception as error:
            errors.append(error)


def services() -> list[int]:
    """The processes that wandb has started from this one."""
    children = [pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]
    return [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "wandb-core"]


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What is shown of a row of training.jsonl."""
    kept = {name: value for name, value in row.items() if name not in OTHER and not isinstance(value, bool)}
    return {f"train/{name}": float(value) for name, value in kept.items() if isinstance(value, (int, float))}


def brief(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class Curves:
    """What a link writes, in the one process that writes. Nothing that goes wrong here ends the link: it is said once.

    first: the last step that the link does not train. wandb: also to wandb, where a project is named.
    """

    def __init__(self, train: Path, first: int, wandb: bool = True):
        self._sinks: dict[str, Sink] = {}
        self._open("TensorBoard", lambda: EventFile(train / "tensorboard", first + 1))
        if wandb and project():
            self._open("wandb", lambda: Wandb(train, first))

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """The numbers of a step's row in training.jsonl; step: from 1."""
        values = numbers(row)
        for name, sink in list(self._sinks.items()):
            self._try(name, lambda sink=sink: sink.write(step, values))  # type: ignore[misc]

    def close(self) -> None:
        for name, sink in list(self._sinks.items()):
            self._try(name, sink.close)
        self._sinks.clear()

    def _open(self, name: str, make: Callable[[], Sink]) -> None:
        self._try(name, lambda: self._sinks.update({name: make()}))

    def _try(self, name: str, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:
            self._sinks.pop(name, None)
            log(f"train: {name} gets no more of this link ({brief(error)}); training does not depend on it")
