"""README.md, CONTRIBUTING.md and docs/: short, plain, and true where a test can tell."""

import re

import pytest

from conftest import ROOT
from documents import DOCUMENTS, NOT_RUN, commands

IDIOMS = (
    "gone on with", "goes on with", "by turns", "of like length", "but for", "is no text", "is no news", "mend",
    "held against", "half a surrogate", "as people read it", "are left out of account", "goes before", "go before",
    "rules of the house", "a process a core", "a byte a row", "a file a gpu", "a job a step",
)  # fmt: skip


def text(document) -> str:
    return " ".join(document.read_text(encoding="utf-8").split())


def test_the_readme_is_one_look() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_plain_english(document) -> None:
    words = text(document).lower()
    assert [idiom for idiom in IDIOMS if re.search(rf"\b{re.escape(idiom)}\b", words)] == []


def test_comments_and_messages_are_plain_english() -> None:
    kinds = {".py", ".sh", ".sbatch", ".env", ".example", ".txt", ".toml", ".Dockerfile"}
    folders = ("python", "scripts", "sbatch", "docker", "recipes")
    files = [
        path for name in folders for path in sorted((ROOT / name).rglob("*")) if path.suffix in kinds and path.is_file()
    ]
    found = {}
    for path in [*files, ROOT / "cluster.env.example", ROOT / "Makefile"]:
        words = " ".join(
            line.strip().removeprefix("# ") for line in path.read_text(encoding="utf-8").splitlines()
        ).lower()
        if idioms := [idiom for idiom in IDIOMS if re.search(rf"\b{re.escape(idiom)}\b", words)]:
            found[str(path.relative_to(ROOT))] = idioms
    assert len(files) > 100 and found == {}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_lines_are_wrapped(document) -> None:
    lines = document.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith(("|", "    make "))] == []


def test_no_machine_is_named() -> None:
    for document in DOCUMENTS:
        found = re.search(r"(?<![\w.<>}-])/(home|root|tmp/|work/|mnt)", document.read_text(encoding="utf-8"))
        assert not found, document


def test_every_option_of_make_is_explained() -> None:
    table = (ROOT / "scripts/options.txt").read_text()
    options = set(re.findall(r"^([A-Z][A-Z0-9_]+) ", table, re.MULTILINE))
    everything = " ".join(text(document) for document in DOCUMENTS)
    assert len(options) > 50
    assert sorted(o for o in options if not re.search(rf"\b{o}\b", everything)) == []


def test_every_option_of_the_cluster_is_explained() -> None:
    example = (ROOT / "cluster.env.example").read_text()
    names = set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", example, re.MULTILINE))
    everything = text(ROOT / "docs" / "cluster.md")
    short = {name: name.removeprefix("SBATCH") for name in names}  # SBATCH_ACCOUNT, _PARTITION
    assert sorted(n for n in names if n not in everything and short[n] not in everything) == []


def test_every_link_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"


def test_the_commands_are_found() -> None:
    """test_demo.py runs them; here is what it would run."""
    found = commands()
    lines = [command.line for command in found]
    assert len(found) >= 30 and {"make", "cp", "sbatch"} == {line.split()[0] for line in lines}
    assert set(NOT_RUN) <= set(lines)
    assert {c.document.name for c in found} >= {"README.md", "CONTRIBUTING.md", "cluster.md", "data.md", "recipes.md"}
    needs = {c.needs for c in found if c.needs}
    assert "GPUs" in needs and "the hub" in needs
    for command in found:
        assert command.tested.startswith(("make", "cp", "sbatch"))
        if "LAUNCHER=slurm" in command.line and "MODEL=tiny" not in command.line:
            assert command.tested.endswith("DRY_RUN=1"), command
