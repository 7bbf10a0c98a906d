"""What Python and pip read from the environment: environment modules, shells and images set it for another Python."""

import os
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import ROOT, Repo, failed, heed_ctrl_c, ok

# As a shell, `module load` or an image may leave them; each alone once broke a stage or made it import other packages.
POISON = "raise SystemExit('a package of another Python was imported')\n"


def hostile(folder: Path) -> dict[str, str]:
    """An environment for another Python: packages that must not be imported, and switches that change what runs."""
    modules, user = folder / "modules", folder / "user"
    site = user / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    for place in (modules, site):
        for name in ("numpy", "datasets", "torch", "orjson"):
            (place / name).mkdir(parents=True)
            (place / name / "__init__.py").write_text("__version__ = '0.1'\n" if name == "datasets" else POISON)
        for name in ("sitecustomize", "usercustomize"):
            (place / f"{name}.py").write_text(POISON)
    return {
        "PYTHONPATH": f"{modules}:",
        "PYTHONHOME": str(folder / "nowhere"),
        "PYTHONUSERBASE": str(user),
        "PYTHONSTARTUP": str(modules / "sitecustomize.py"),
        "PYTHONSAFEPATH": "1",
        "PYTHONOPTIMIZE": "2",
        "PYTHONINSPECT": "1",
        "PYTHONWARNINGS": "error",
        "PYTHONINTMAXSTRDIGITS": "640",
        "PYTHONPLATLIBDIR": "lib128",
        "PYTHONIOENCODING": "ascii",
        "PYTHONEXECUTABLE": "/nowhere/python",
    }


def test_what_is_left_of_the_environment(repo: Repo, tmp_path: Path) -> None:
    kept = {
        "PYTHON": "python3",  # the option of make gpu-bench
        "PYTHONUNBUFFERED": "1",
        "PYTHONPYCACHEPREFIX": "/cache",
        "PIP_INDEX_URL": "https://mirror/simple",
        "PIP_EXTRA_INDEX_URL": "https://other/simple",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "/wheels",
        "PIP_TRUSTED_HOST": "mirror",
        "PIP_CERT": "/ca.pem",
        "PIP_CLIENT_CERT": "/me.pem",
        "PIP_PROXY": "http://proxy:1",
        "PIP_DEFAULT_TIMEOUT": "60",
        "PIP_RETRIES": "9",
        "PIP_CACHE_DIR": "/cache",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_CONFIG_FILE": "/site/pip.conf",
    }
    pip = "TARGET PREFIX ROOT USER REQUIRE_VIRTUALENV NO_BINARY ONLY_BINARY CONSTRAINT PRE DRY_RUN PYTHON NO_DEPS"
    gone = {f"PIP_{name}": "1" for name in pip.split()} | {"PYTHONDONTWRITEBYTECODE": "1"}
    repo.env = {k: v for k, v in repo.env.items() if not k.startswith(("PYTHON", "PIP_"))}
    out = ok(repo.call("bash", "-c", ". scripts/lib.sh; env", **kept, **gone, **hostile(tmp_path)))
    left = dict(line.split("=", 1) for line in out.splitlines() if line.startswith(("PYTHON", "PIP_")))
    assert left == kept | {"PYTHONNOUSERSITE": "1"}


@pytest.mark.slow
def test_stages_import_what_was_pinned_in_any_environment(prepared: Repo, repo: Repo, tmp_path: Path) -> None:
    """Data, base model and two steps of training, called from a folder with a queue.py: the same files as without."""
    env = hostile(tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    for name in ("queue", "json", "torch", "lib"):
        (here / f"{name}.py").write_text(POISON)

    def run(*command: object) -> str:
        words = ["env", "-C", here, *command]
        return ok(repo.call(*words, **env))

    repo.derive("two", STEPS=2, WARMUP=1, SAVE_EVERY=2, AVERAGE_STEPS=2)
    run(repo.root / "scripts/data.sh", "two", "1")
    run(repo.root / "scripts/model.sh", "two", "1")
    for folder in ("data/mini/round1", "models/mini"):
        assert repo.done(repo.work / folder)["outputs"] == prepared.done(prepared.work / folder)["outputs"]
    out = run("bash", repo.root / "sbatch/train.sbatch", "two", "1")
    assert "the last complete checkpoint is step 2 of 2" in out
    assert (repo.work / "runs/two/round1/train/DONE").is_file()


def test_make_reads_recipes_in_any_environment(repo: Repo, tmp_path: Path) -> None:
    env = {k: v for k, v in hostile(tmp_path).items() if k != "PYTHONHOME"}  # without which make's own calls find none
    shown = ok(repo.call("make", "-s", "show", "MODEL=mini", **env))
    assert "SEQ_LEN=256" in shown.splitlines()
    assert "models: " in ok(repo.call("make", "-s", **env))
    failed(repo.call("make", "-s", "train", **env), "say which model")


@pytest.mark.parametrize("runtime", ["pyxis", "enroot", "apptainer", "docker", "podman", "none"])
def test_no_container_is_handed_the_hosts_packages(repo: Repo, tmp_path: Path, runtime: str) -> None:
    """By name on the command line, or, apptainer and srun, as the whole environment; its own user site is left out."""
    script = """
        . scripts/lib.sh; . scripts/runtime.sh; open_work
        VENV=/venv DEVICE=cpu; container cpu
        printf '%s\\n' command "${SRUN_CONTAINER[@]}" "${BOX[@]}" -- "$(env)"
    """
    image = {} if runtime == "none" else {"CONTAINER_IMAGE": "some/image", "CONTAINER_RUNTIME": runtime}
    command, left = ok(repo.call("bash", "-c", script, **hostile(tmp_path), **image)).split("\n--\n")
    assert "PYTHONPATH" not in command + left and "PYTHONHOME" not in command + left
    assert "PYTHONNOUSERSITE=1" in left
    if runtime in ("pyxis", "enroot", "docker", "podman"):
        assert "PYTHONNOUSERSITE" in command


# --- setup ---------------------------------------------------------------------------------------------------------


def wheel(folder: Path, name: str, version: str) -> None:
    """The least that pip installs: a package of one line."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", f"version = {version!r}\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture
def small(repo: Repo, tmp_path: Path) -> Repo:
    """A copy whose pins are two packages of one line, in a folder that stands for an index."""
    (repo.root / "docker/requirements.txt").write_text("six_pack==1.0\ntorch==2.13.0\n")
    for name, version in (("torch", "2.13.0"), ("six_pack", "1.0"), ("six_pack", "0.9")):
        wheel(tmp_path / "index", name, version)
    repo.env = {k: v for k, v in repo.env.items() if not k.startswith("PIP_")}
    repo.env |= {"VENV": str(tmp_path / "venv"), "PIP_FIND_LINKS": str(tmp_path / "index"), "PIP_NO_INDEX": "1"}
    repo.env["PATH"] = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != f"{sys.prefix}/bin")
    return repo


@pytest.mark.slow
def test_setup_installs_into_its_venv_in_any_environment(small: Repo, tmp_path: Path) -> None:
    """The index is the one given; every other setting of pip is another environment's."""
    others = dict.fromkeys(("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"), str(tmp_path / "elsewhere")) | {
        "PIP_USER": "1",
        "PIP_REQUIRE_VIRTUALENV": "1",
        "PIP_NO_BINARY": ":all:",
        "PIP_DRY_RUN": "1",
    }
    (tmp_path / "constraint").write_text("torch==2.0\n")
    others["PIP_CONSTRAINT"] = str(tmp_path / "constraint")
    ok(small.call("scripts/setup.sh", **hostile(tmp_path), **others))
    found = small.call(tmp_path / "venv/bin/python", "-c", "import torch, six_pack; print(six_pack.version)")
    assert ok(found) == "1.0\n"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_setup_adds_what_shows_curves(small: Repo, tmp_path: Path) -> None:
    """Where it is asked for; a second time only when its pins are others."""
    (small.root / "docker/requirements-loggers.txt").write_text("curve_pack==1.0\n")
    wheel(tmp_path / "index", "curve_pack", "1.0")
    ok(small.call("scripts/setup.sh"))
    look = (tmp_path / "venv/bin/python", "-c", "import curve_pack")
    assert small.call(*look).returncode == 1
    ok(small.call("scripts/setup.sh", "loggers"))
    ok(small.call(*look))
    (tmp_path / "index").rename(tmp_path / "none")
    ok(small.call("scripts/setup.sh", "loggers"))
    (small.root / "docker/requirements-loggers.txt").write_text("curve_pack==2.0\n")
    failed(small.call("scripts/setup.sh", "loggers"), "requirements-loggers.txt", "check the network")
    failed(small.call("scripts/setup.sh", "curves"), "usage: setup.sh [loggers|test]", status=(2,))


@pytest.mark.slow
def test_ctrl_c_in_setup_is_called_that(small: Repo) -> None:
    """While pip waits for an index that never answers: pip calls it an error, and the network is not at fault."""
    with socket.create_server(("127.0.0.1", 0)) as index:
        del small.env["PIP_NO_INDEX"], small.env["PIP_FIND_LINKS"]
        small.env["PIP_INDEX_URL"] = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        process = subprocess.Popen(
            ["scripts/setup.sh"], cwd=small.root, env=small.env, start_new_session=True, preexec_fn=heed_ctrl_c,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        index.settimeout(60)
        with index.accept()[0]:
            os.killpg(process.pid, signal.SIGINT)
            errors = process.communicate(timeout=60)[1]
    assert (process.returncode, errors) == (130, "error: interrupted; run the same command again to go on\n")


@pytest.mark.parametrize("setting", ["target = ELSEWHERE", "root = ELSEWHERE", "dry-run = true"])
@pytest.mark.slow
def test_a_configuration_file_that_installs_elsewhere_is_named(small: Repo, tmp_path: Path, setting: str) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(f"[global]\n{setting.replace('ELSEWHERE', str(tmp_path / 'elsewhere'))}\n")
    failed(small.call("scripts/setup.sh", PIP_CONFIG_FILE=config), "six_pack==1.0, torch==2.13.0", "pip config list")
    assert not (tmp_path / "venv/PINS").exists()


@pytest.mark.parametrize(
    "version, fits", [("3.10", False), ("3.11", True), ("3.12", True), ("3.13", False), ("3.14", False), ("4.0", False)]
)
def test_another_python_is_refused_before_anything_is_downloaded(
    small: Repo, tmp_path: Path, version: str, fits: bool
) -> None:
    """python3 stands for one of another version, as the script asks it; of the right ones it makes a venv."""
    major, minor = version.split(".")
    fake = tmp_path / "bin" / "python3"
    fake.parent.mkdir()
    fake.write_text(
        f"""#!/bin/bash
        if [[ $1 == -V ]]; then echo "Python {version}.1"; exit; fi
        of="import sys; sys.version_info = ({major}, {minor}, 1)"
        if [[ $1 == -c ]]; then exec "{sys.executable}" -c "$of; $2"; fi
        echo "$*" >>"{tmp_path}/calls"; exit 1
        """
    )
    fake.chmod(0o755)
    result = small.call("scripts/setup.sh", PATH=f"{fake.parent}:/usr/bin:/bin")
    if fits:
        assert "-m venv" in (tmp_path / "calls").read_text()
    else:
        failed(result, f"python3 is Python {version}.1", "put a Python 3.11 or 3.12 first in PATH")
        assert "building" not in result.stdout
        assert not (tmp_path / "calls").exists() and not (tmp_path / "venv").exists()


def test_readme_promises_the_pythons_that_setup_takes() -> None:
    assert "Both need Python 3.11 or 3.12, make" in (ROOT / "README.md").read_text(encoding="utf-8")
