"""A copy of the code with the tests' own recipes in it, and the commands as a user gives them."""

import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from browser import CHROMIUM, Tab, chromium
from sft.recipe.checks import check, parse
from sft.recipe.keys import Recipe
from sft.recipe.read import load

ROOT = Path(__file__).parent.parent
CODE = ("scripts", "sbatch", "python", "recipes", "docker", "tests/bench", "Makefile", "cluster.env.example")
VENV = Path(sys.prefix)
SLURM = ROOT / "tests" / "slurm"
CLUSTERS = itertools.count()  # that this process has started


# The files that take longest, in this order: they begin first, or one process would end with them alone.
LONGEST = (
    "stages/test_average.py",  # of make test: the first that needs the run which all share
    "stages/test_demo.py",
    "cluster/test_ray.py",
    "cluster/test_slurm.py",
    "stages/test_demo_reasoning.py",
    "cluster/test_container.py",
    "stages/test_train.py",
    "model/test_adapter.py",
    "eval/test_vllm.py",
    "engines/test_megatron.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


class Repo:
    """A working copy below a temporary folder: its own recipes, its own WORK, the virtual environment of the tests."""

    def __init__(self, root: Path):
        self.root, self.work = root, root / "work"
        for name in CODE:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                root.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, root / name)
        shutil.copytree(ROOT / "tests/recipes", root / "recipes", dirs_exist_ok=True)
        others = ("SLURM", "SBATCH", "HF_", "MAKE", "CONTAINER_")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(others)}
        self.env |= {"VENV": str(VENV), "WORK": str(self.work), "OMP_NUM_THREADS": "1"}

    def derive(self, name: str, **changes: object) -> str:
        """Write recipe `name` as mini with some keys changed, new ones in the model's file; returns the name."""
        folder = self.root / "recipes" / name
        folder.mkdir(exist_ok=True)
        for layer in ("common", "round1", "mini"):
            lines = (ROOT / f"tests/recipes/mini/{layer}.env").read_text().splitlines()
            new = [f"{k}={changes.pop(k)}" if (k := line.split("=")[0]) in changes else line for line in lines]
            new += [f"{key}={value}" for key, value in changes.items()] if layer == "mini" else []
            (folder / f"{name if layer == 'mini' else layer}.env").write_text("\n".join(new) + "\n")
        return name

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.root / file
        text = path.read_text()
        assert old in text, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new))

    def call(self, *command: object, timeout: float = 300, **env: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(c) for c in command],
            cwd=self.root,
            env=self.env | {k: str(v) for k, v in env.items()},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    def python(self, script: str, *args: object, **env: object) -> subprocess.CompletedProcess[str]:
        return self.call(sys.executable, f"python/{script}.py", *args, **env)

    def stage(self, script: str, model: str = "mini", *args: object, **env: object) -> subprocess.CompletedProcess[str]:
        return self.python(script, model, "1", "--work", self.work, *args, **env)

    def run_dir(self, model: str = "mini") -> Path:
        return self.work / "runs" / model / "round1"

    def losses(self, model: str = "mini") -> dict[int, float]:
        """Step -> loss as the project's own reader sees the log: of a step trained twice, the later one."""
        from sft.engines import saved

        return {step: row["loss"] for step, row in saved.losses(self.run_dir(model) / "train" / "checkpoints").items()}

    def done(self, folder: Path) -> dict:
        return json.loads((folder / "DONE").read_text())


def heed_ctrl_c() -> None:
    """For a child before it starts: tests that run in the background have SIGINT ignored, and hand that down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def parsed(model: str, round_: str, changes: Mapping[str, str | None]) -> Recipe:
    """A recipe with some texts changed (None: the key is taken out), each read by itself. Raises Failure."""
    text = load(model, round_)["text"] | changes
    return parse(model, {key: value for key, value in text.items() if value is not None})


def changed(model: str, round_: str, changes: Mapping[str, str | None]) -> Recipe:
    """The same, checked as a whole. Raises Failure."""
    recipe = parsed(model, round_, changes)
    check(model, recipe)
    return recipe


def failed(result: subprocess.CompletedProcess[str], *words: str, status: tuple[int, ...] = (1, 2)) -> str:
    """Assert that a command ended with one error line that holds `words`, without a traceback; returns the line."""
    output = result.stdout + result.stderr
    assert result.returncode in status, (result.returncode, output)
    assert "Traceback" not in output, output
    errors = [line for line in output.splitlines() if "error: " in line or ("*** " in line and " Error " not in line)]
    assert len(errors) == 1, output
    for word in words:
        assert word in errors[0], errors[0]
    assert ";" in errors[0], f"no remedy: {errors[0]}"
    return errors[0]


def programs_without(folder: Path, repo: Repo, *names: str) -> Path:
    """A new folder, for PATH, with this machine's programs except some."""
    folder.mkdir()
    for source in repo.env["PATH"].split(":"):
        for program in Path(source).iterdir() if Path(source).is_dir() else ():
            if program.name not in names and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return folder


def ok(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "repo")


@pytest.fixture(scope="session")
def session_repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return Repo(tmp_path_factory.mktemp("session") / "repo")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Repo], object], *folders: str) -> Repo:
    """A copy of the code with `folders` of WORK as `make` leaves them.

    Of the processes that test side by side the first one calls it, for another copy, and the others wait: no verdict
    may depend on which of them was the first.
    """
    place = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    made = place / "made" / name
    made.parent.mkdir(exist_ok=True)
    with made.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (made / "MADE").is_file():
            shutil.rmtree(made, ignore_errors=True)
            make(Repo(made))
            (made / "MADE").touch()
    repo = Repo(factory.mktemp(name) / "repo")
    put(made / "work", repo, *folders)
    return repo


def put(work: Path, repo: Repo, *folders: str) -> None:
    """Copy some folders of another WORK."""
    for folder in folders:
        shutil.copytree(work / folder, repo.work / folder, symlinks=True)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """Data and base model of mini, made once."""

    def make(repo: Repo) -> None:
        ok(repo.call("scripts/data.sh", "mini", "1"))
        ok(repo.call("scripts/model.sh", "mini", "1"))

    return made_once(tmp_path_factory, "prepared", make, "data", "models")


@pytest.fixture(scope="session")
def trained(prepared: Repo, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """The whole chain of mini in one link, by the local launcher: what interrupted runs are compared with."""

    def make(repo: Repo) -> None:
        put(prepared.work, repo, "data", "models")
        ok(repo.call("scripts/submit.sh", "train", "mini", "1"))

    return made_once(tmp_path_factory, "trained", make, "data", "models", "runs")


@pytest.fixture(scope="session")
def trained_pair(prepared: Repo, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """mini as "pair", in one link of two processes (FSDP2 over gloo), which interrupted ones are compared with."""

    def make(repo: Repo) -> None:
        put(prepared.work, repo, "data", "models")
        repo.derive("pair", GPUS_PER_NODE=2)
        ok(repo.call("bash", "sbatch/train.sbatch", "pair", "1"))

    return made_once(tmp_path_factory, "trained_pair", make, "data", "models", "runs")


@pytest.fixture
def copy(prepared: Repo, repo: Repo) -> Repo:
    """A copy of its own with mini's data and base model in WORK."""
    put(prepared.work, repo, "data", "models")
    return repo


@pytest.fixture
def finished(trained: Repo, repo: Repo) -> Repo:
    """A copy of its own with mini's whole run in WORK, to be broken."""
    shutil.copytree(trained.work, repo.work, symlinks=True)
    return repo


@pytest.fixture(scope="session")
def prepared_mega(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """Data and base model of mega, made once."""

    def make(repo: Repo) -> None:
        ok(repo.call("scripts/data.sh", "mega", "1"))
        ok(repo.call("scripts/model.sh", "mega", "1"))

    return made_once(tmp_path_factory, "prepared_mega", make, "data", "models")


@pytest.fixture
def mega(prepared_mega: Repo, repo: Repo) -> Repo:
    """A copy of its own with mega's data and base model in WORK."""
    put(prepared_mega.work, repo, "data", "models")
    return repo


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 1 MiB; mounting it takes root."""
    if os.geteuid() and os.environ.get("CI") != "true":
        pytest.skip("a small file system can only be mounted as root")
    target = tmp_path / "small"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(target)], check=True)
    yield target
    subprocess.run(["umount", str(target)], check=True)


def missing(message: str) -> NoReturn:
    """A machine that cannot do what a test needs skips it, unless CI=true: it fails."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        missing("no chromium here; install it: apt-get install chromium")
    if os.environ.get("CI") != "true":
        pytest.importorskip("playwright.sync_api")
    with chromium() as made:
        yield made


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """Opens a file in a tab, which may ask for other files only, and in which nothing may go wrong."""
    tabs: list[Tab] = []

    def open_tab(file: Path, **options: Any) -> Tab:
        tabs.append(Tab(browser, file, **options))
        return tabs[-1]

    yield open_tab
    for one in tabs:
        assert all(url.startswith("file://") for url in one.asked), one.asked
        assert one.wrong == []
        one.context.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """Environment of a running cluster with four nodes."""
    with running_slurm() as env:
        yield env


@contextmanager
def running_slurm(nodes: int = 4, **env: str) -> Iterator[dict[str, str]]:
    """The environment of a cluster that up.sh starts with `env`, on ports that no other cluster of the tests has."""
    base, worker = os.environ.get("PORT_BASE", "26800"), os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    if base.isdigit():
        env |= {"PORT_BASE": str(int(base) + 500 * int(worker.removeprefix("gw")) + 10 * next(CLUSTERS))}
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    up = subprocess.run(
        [SLURM / "up.sh", folder, str(nodes)], capture_output=True, text=True, timeout=60, env=os.environ | env
    )
    if up.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        missing(f"no Slurm here: {up.stderr.strip()}")
    try:
        yield {"SLURM_CONF": up.stdout.strip(), "LAUNCHER": "slurm", "NET_IFNAME": "eth0", "JOBS": "2"}
    finally:
        subprocess.run([SLURM / "down.sh", folder], check=True, timeout=60)
        shutil.rmtree(folder)
