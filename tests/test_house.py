"""How python/ is built: stages and tools above one library, whose folders import downwards only."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import LONGEST, ROOT
from sft.recipe.keys import KEYS

PYTHON = ROOT / "python"
STAGES = ("data", "model", "train", "convert", "average", "eval", "results")
# From below.
FOLDERS = ("lib", "recipe", "rows", "data", "model", "engines", "eval", "plan", "site", "watch", "inspect", "results")
INSIDE = PYTHON / "sft/engines/nemo_rl/inside"  # scripts of NeMo-RL's image, which import nothing of ours
MODULES = {
    ".".join(file.relative_to(PYTHON).with_suffix("").parts): file
    for file in sorted(PYTHON.rglob("*.py"))
    if INSIDE not in file.parents and file.name != "__init__.py"
}


def imports(module: str) -> Iterator[str]:
    """Modules of ours that a module imports, in functions, too."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in MODULES or node.module in MODULES:
                    yield name if name in MODULES else node.module


def height(module: str) -> int:
    folder = module.split(".")[1] if module.startswith("sft.") else ""
    return FOLDERS.index(folder) if folder else len(FOLDERS)


def test_ls_shows_the_pipeline() -> None:
    assert {path.stem for path in PYTHON.glob("*.py")} == {*STAGES, "engine"}
    assert {path.name for path in PYTHON.iterdir() if path.is_dir()} - {"__pycache__"} == {"sft", "tools", "runs"}
    folders = {path.name for path in (PYTHON / "sft").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(FOLDERS)


def test_imports_go_downwards() -> None:
    known = {module: set(imports(module)) for module in MODULES}
    assert known["convert"] and known["tools.plan"], "the walk finds imports"
    for module, found in known.items():
        for other in found:
            assert height(other) <= height(module), f"{module} imports {other}, which is above it"
            assert other.startswith("sft."), f"{module} imports {other}, a script"


def test_no_circle() -> None:
    known = {module: set(imports(module)) for module in MODULES}
    while free := {module for module, found in known.items() if not found & known.keys()}:
        known = {module: found for module, found in known.items() if module not in free}
    assert not known, f"these import each other: {sorted(known)}"


def test_engines_have_one_shape() -> None:
    names = {"automodel", "nemo_rl", "nemo2"}
    engines = PYTHON / "sft/engines"
    assert {path.name for path in engines.iterdir() if path.is_dir()} - {"__pycache__"} == names
    for name in names:
        assert {"config", "link", "saved"} <= {path.stem for path in (engines / name).glob("*.py")}, name
        for file, functions in {
            "config": ("text",),
            "link": ("base_folders", "open_link"),
            "saved": ("saved_steps", "history", "exported"),
        }.items():
            text = (engines / name / f"{file}.py").read_text()
            assert all(f"\ndef {function}(" in text for function in functions), (name, file)


def test_engines_are_compared_in_one_place() -> None:
    """Everybody else asks sft.recipe.engines what the engine does, or the registry for its module."""
    names = {"automodel", "nemo-rl", "nemo2"}
    for module, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Compare):
                sides = [side.value for side in ast.walk(node) if isinstance(side, ast.Constant)]
                assert not names & {side for side in sides if isinstance(side, str)} and "ENGINE" not in sides, (
                    f"{module}:{node.lineno}"
                )


def test_shell_asks_engines_what_they_do() -> None:
    """Each engine's file has the same verbs; nothing else compares ENGINE. generate is NeMo 2.0's alone."""
    shell = [*(ROOT / "scripts").rglob("*.sh"), *(ROOT / "sbatch").glob("*.sbatch")]
    compared = re.compile(r"\$\{?ENGINE\}?\"? *(==|!=|=~)|(==|!=) *\"?\$\{?ENGINE\b|case \"?\$\{?ENGINE\b")
    for file in shell:
        assert [line for line in file.read_text().splitlines() if compared.search(line)] == [], file.name
    verbs = {"images", "container", "options", "ready", "renderer", "train", "convert"}
    for name in ("automodel", "nemo-rl", "nemo2"):
        file = ROOT / f"scripts/engines/{name}.sh"
        script = f'ROOT={ROOT} && . "$ROOT/scripts/lib.sh" && . {file} && compgen -A function engine_'
        made = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        assert verbs <= {line.removeprefix("engine_") for line in made.stdout.split()}, name


def test_no_key_of_a_recipe_has_a_default_in_code() -> None:
    for module, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"):
                continue
            if len(node.args) == 2 and isinstance(node.args[0], ast.Constant) and node.args[0].value in KEYS:
                # What is left out means nothing here: an empty set, or the round that is asked for.
                assert (module, node.args[0].value) in {
                    ("tools.eval_data", "EVAL_SET"),
                    ("sft.recipe.read", "ROUNDS"),
                    ("sft.recipe.paths", "DATA_ROUND"),
                    ("sft.recipe.paths", "VAL_DATASET"),
                }, f"{module}:{node.lineno}"


def test_files_are_short_and_folders_small() -> None:
    for module, file in MODULES.items():
        lines = len(file.read_text().splitlines())
        assert lines <= (170 if module in STAGES else 400), f"{file} has {lines} lines"
    for folder in {file.parent for file in MODULES.values()} - {PYTHON}:
        assert len(list(folder.glob("*.py"))) <= 9, folder  # with __init__.py


def test_the_longest_files_of_tests_exist() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []


def test_no_module_is_named_as_a_package_that_it_would_hide() -> None:
    """python/ is first on the path of every script in it, also in NVIDIA's images."""
    upstream = {"nemo_rl", "nemo", "nemo_automodel", "megatron", "ray", "datasets", "transformers", "torch", "inspect"}
    top = {path.stem for path in PYTHON.iterdir()}
    assert not top & (upstream | sys.stdlib_module_names)


@pytest.mark.parametrize("script", sorted(m for m in MODULES if not m.startswith("sft.")))
def test_a_script_runs_from_anywhere_and_needs_no_path(script: str, tmp_path: Path) -> None:
    """Neither an install nor PYTHONPATH: -E ignores it, as one of the images' must not matter."""
    file = MODULES[script]
    shown = subprocess.run([sys.executable, "-E", file, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert shown.returncode == 0 and shown.stdout.startswith("usage: "), shown
    doc = ast.get_docstring(ast.parse(file.read_text())) or ""
    example = f"python/{script.replace('.', '/')}.py"
    assert re.search(rf"\b{re.escape(example)} ", doc), f"{file} shows no call of {example}"
