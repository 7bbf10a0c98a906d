"""The lines of a link's logs that matter, by engine. Standard library only."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from sft.lib.files import read_json
from sft.recipe.engines import engine_of
from sft.recipe.keys import Recipe

# What says that something went wrong. Ours, Python's, torchrun's, NCCL's, Slurm's and the kernel's.
ERROR = re.compile(
    r"^error: |^\w*(Error|Exception)\b.*:|\b\w+(Error|Exception): |out of memory|Signal \d+ \(SIG|Killed"
    r"|Segmentation fault|slurmstepd: error|srun: error|NCCL (ERROR|WARN)|watchdog.*timeout|\bERROR\b"
    r"|CANCELLED AT|DUE TO TIME LIMIT"
)
WARNING = re.compile(r"\bWARN(ING)?\b|Warning: ")
# What every run says. nemo-automodel and torch tell of kernels that a machine has not; Ray of its own settings.
USUAL = re.compile(
    r"FutureWarning|DeprecationWarning|Warning: .* deprecated|is an Enum subclass|torchao|Triton"
    r"|OMP_NUM_THREADS|Setting logging level"
)
NOISE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|.*\r(?=.)")  # colours, and a progress bar's earlier states
RAY = re.compile(r"^\(\w+[^)]*pid=\d+[^)]*\) ")  # Ray's name of the worker that said it
WIDTH = 200


def link_files(recipe: Recipe, train: Path) -> list[Path]:
    """The logs of the last link; nothing before the first. NeMo-RL has a folder for each, the others a file."""
    logs = train / "logs"
    if engine_of(recipe).rl:
        folders = sorted((mark.parent for mark in logs.glob("*/LINK")), key=lambda f: read_json(f / "LINK")["started"])
        return [p for p in sorted(folders[-1].iterdir()) if p.suffix == ".log"] if folders else []
    files = sorted(logs.glob("*.log"), key=lambda path: path.stem.rsplit("-", 1)[-1])  # by the time in its name
    return files[-1:]


def read(files: Iterable[Path]) -> Iterator[str]:
    """Their lines, without colours."""
    for file in files:
        with open(file, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                yield RAY.sub("", NOISE.sub("", line.rstrip()))


def alike(line: str) -> str:
    """What two lines have in common that say the same of another step, process or time."""
    return re.sub(r"0x[0-9a-f]+|[0-9]+", "#", line)


def matter(lines: Iterable[str], most: int = 5) -> tuple[list[str], list[str]]:
    """(errors, warnings): the last `most` of each, those that say the same once, with their number."""
    found: dict[str, dict[str, tuple[str, int]]] = {"error": {}, "warning": {}}
    for line in lines:
        if USUAL.search(line):
            continue
        kind = "error" if ERROR.search(line) else "warning" if WARNING.search(line) else ""
        if kind:
            key = alike(line)
            count = found[kind].pop(key, ("", 0))[1]  # out and in again: the last ones are the last that were said
            found[kind][key] = (line, count + 1)
    shown = [
        [
            f"{line.strip()[:WIDTH]}{f' ({count:,} times)' if count > 1 else ''}"
            for line, count in list(some.values())[-most:]
        ]
        for some in found.values()
    ]
    return shown[0], shown[1]


def ending_of(job_log: Path | None, files: list[Path]) -> str:
    """The last word of a link: NeMo-RL's `failed`, or the last line of ours in the job's log or the link's own."""
    for folder in {file.parent for file in files}:
        if (folder / "failed").is_file():
            return (folder / "failed").read_text(encoding="utf-8", errors="replace").strip()[:WIDTH]
    ours = re.compile(r"^(\[[0-9:]{8}\] train: |error: |slurmstepd: error|srun: error)")
    for file in [*([job_log] if job_log else []), *files]:
        said = [line for line in read([file]) if ours.match(line)]
        if said:
            return said[-1][:WIDTH]
    return ""
