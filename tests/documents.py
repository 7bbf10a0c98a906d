"""The documents for readers, and the commands in them."""

import re
from pathlib import Path
from typing import NamedTuple

from conftest import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^    ((?:make|cp|sbatch) .*?)(?:\s+#(.*))?$", re.MULTILINE)
# What a test session itself is, or what another test runs from a fresh clone.
NOT_RUN = ("make demo", "make demo MODEL=tiny-reasoning", "make test")
# Stages that print their commands with DRY_RUN=1; of any other target make prints what it would call.
DRY = ("container", "data", "eval", "model", "train")


class Command(NamedTuple):
    """An indented command line of a document. needs: what its comment says that it needs, like GPUs; mostly empty."""

    document: Path
    line: str
    needs: str

    @property
    def target(self) -> str:
        return self.line.split()[1]

    @property
    def tested(self) -> str:
        """The command as a test runs it: what needs something that a test does not have is only printed."""
        if not self.needs:
            return self.line
        return f"{self.line} DRY_RUN=1" if self.target in DRY else self.line.replace("make ", "make -n ", 1)


def commands() -> list[Command]:
    """All of them in the documents' order, each once."""
    found: dict[str, Command] = {}
    for document in DOCUMENTS:
        for line, comment in COMMAND.findall(document.read_text(encoding="utf-8")):
            needs = re.search(r"needs ([^:;]+)", comment)
            line = " ".join(line.split())
            found.setdefault(line, Command(document, line, needs[1].strip() if needs else ""))
    return list(found.values())
