"""Containers: the command of each runtime, make container, a real srun with a double of pyxis, a real image.

docker, enroot and apptainer cannot run on a test machine. Where a test needs them, small programs stand for them that
record how they were called (`stand_ins`); what they do not show is that the real ones take those calls. pyxis is stood
for by tests/slurm/pyxis_double.c under a real srun. podman and buildah are real, in the slow test.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_slurm import Job

from conftest import ROOT, SLURM, Repo, failed, missing, ok, programs_without, running_slurm

ENGINES = ("automodel", "cpu", "nemo-rl", "nemo2", "nemo2-llama3", "vllm")
DIGEST = "sha256:" + "0" * 64
SECRETS = {"HF_TOKEN": "secret-token", "WANDB_API_KEY": "secret-key"}
CONTAINER = """
. scripts/lib.sh
. scripts/runtime.sh
open_work
"""


@pytest.fixture
def code(repo: Repo) -> Repo:
    """A copy of the code, with nothing of the machine's own in the environment."""
    repo.env = {k: v for k, v in repo.env.items() if k in ("PATH", "HOME", "VENV", "WORK")}
    repo.env |= {"USER": "me"} | SECRETS
    return repo


def shell(repo: Repo, script: str, **env: object) -> subprocess.CompletedProcess[str]:
    return repo.call("bash", "-c", CONTAINER + script, **env)


STAND_IN = r"""#!/bin/bash
# Stands for ${0##*/} in a test: writes down how it was called; $STORE holds the names of its images.
echo "${0##*/} $*" >>"$CALLS"
fail() { if [[ ${FAIL:-} == "$1" ]]; then echo "some progress"; echo "Error: no $1 today" >&2; exit 125; fi; }
stored() { [[ -e $STORE/${1//\//_} ]]; }
case "${0##*/} $1 $2" in
    *' image inspect')
        stored "${!#}" || { echo "no such image" >&2; exit 1; }
        echo "name@DIGEST"
        ;;
    *' pull '*) fail pull && : >"$STORE/${2//\//_}" ;;
    *' build --'*)
        fail build
        while [[ $1 != --tag ]]; do shift; done
        : >"$STORE/${2//\//_}"
        ;;
    *' create '*) echo box ;;
    *' cp '*) cd "$STORE" && echo '{"engine": "1.2"}' >VERSIONS && tar -c VERSIONS ;;
    *' push '*) : >"${3#docker-archive:}" ;;
    enroot*) echo half >"$3" && fail import && echo whole >"$3" ;;
    apptainer*) echo half >"$2" && fail import && echo whole >"$2" ;;
esac
""".replace("DIGEST", DIGEST)


@pytest.fixture
def stand_ins(code: Repo, tmp_path: Path) -> Repo:
    """The code, and a PATH with this machine's programs, where only stand-ins build, run and import images."""
    names, store = ("docker", "podman", "buildah", "enroot", "apptainer"), tmp_path / "store"
    store.mkdir()
    folder = programs_without(tmp_path / "bin", code, *names)
    for name in names:
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    code.env |= {"PATH": str(folder), "STORE": str(store), "CALLS": str(tmp_path / "calls")}
    (tmp_path / "calls").touch()
    return code


def calls(repo: Repo) -> list[str]:
    """How the stand-ins were called since the last time, looking things up apart."""
    file = Path(repo.env["CALLS"])
    lines = [line for line in file.read_text().splitlines() if " image inspect " not in line]
    file.write_text("")
    return lines


def dockerfile(engine: str) -> Path:
    return ROOT / "docker" / f"{engine if engine in ('cpu', 'vllm') else 'engine'}.Dockerfile"


def tag(repo: Repo, engine: str, **env: object) -> str:
    return ok(shell(repo, f"container_tag {engine}", **env)).strip()


# --- the command of each runtime ---------------------------------------------------------------------------------


def words(repo: Repo, tmp_path: Path, engine: str = "nemo-rl", **env: object) -> str:
    """What `container` puts before a command, one word a line, with placeholders for what differs between machines."""
    for name in ("hf", "more", "work"):
        (repo.root.parent / name).mkdir(exist_ok=True)
    env = {
        "WORK": tmp_path / "work", "HF_HOME": tmp_path / "hf", "CONTAINER_MOUNTS": f"{tmp_path}/more:/more:ro",
        "DEVICE": "gpu", "NCCL_DEBUG": "INFO", "NRL_CONTAINER": "1", "SLURM_JOB_ID": "7", "LINK_END": "99",
    } | env  # fmt: skip
    made = shell(
        repo,
        f"""
        file=$(container_target {engine})
        if [[ $file == /* ]]; then mkdir -p "${{file%/*}}" && : >"$file"; else : >"$STORE/${{file//\\//_}}"; fi
        container {engine}
        printf '%s\\n' "${{SRUN_CONTAINER[@]}}" "${{BOX[@]}}" "$BOX_PYTHON" train.py | grep .
        """,
        **env,
    )
    shown = ok(made).replace(tag(repo, engine), "TAG").replace(str(repo.root), "/CODE").replace(str(tmp_path), "/TMP")
    return shown.replace(repo.env["VENV"], "/VENV").replace(f"{os.getuid()}:{os.getgid()}", "UID:GID")


@pytest.mark.parametrize("runtime", ["pyxis", "enroot", "apptainer", "docker", "podman", "none"])
def test_the_command_of_each_runtime(stand_ins: Repo, tmp_path: Path, runtime: str) -> None:
    """Against golden files. Variables stand on it by name only."""
    shown = words(stand_ins, tmp_path, CONTAINER_RUNTIME=runtime)
    golden = ROOT / "tests" / "golden" / f"runtime.{runtime}.txt"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(shown)
    assert shown == golden.read_text()
    assert "secret" not in shown


def test_without_a_gpu_none_is_asked_for(stand_ins: Repo, tmp_path: Path) -> None:
    for runtime in ("apptainer", "docker", "podman"):
        shown = words(stand_ins, tmp_path, "cpu", CONTAINER_RUNTIME=runtime, DEVICE="cpu").splitlines()
        assert not {"--nv", "--gpus", "nvidia.com/gpu=all"} & set(shown)
        assert shown[-2] == "/opt/venv/bin/python"


def test_wandbs_own_variables_reach_the_link(code: Repo) -> None:
    names = ok(shell(code, "container_names", WANDB_PROJECT="p", WANDB_MODE="offline", WANDB_ENTITY="e", MY_OWN="x"))
    found = {name for name in names.split() if name.startswith(("WANDB", "MY"))}
    assert found == {"WANDB_API_KEY", "WANDB_ENTITY", "WANDB_MODE", "WANDB_PROJECT"}


def test_what_is_mounted(code: Repo, tmp_path: Path) -> None:
    """Outer folders first; the code read-only also where it lies in WORK; nothing twice."""
    snapshot = tmp_path / "work/runs/code"
    (tmp_path / "work/hf").mkdir(parents=True)
    shutil.copytree(code.root, snapshot)
    code.root = snapshot
    mounts = ok(shell(code, "container_mounts", WORK=tmp_path / "work", HF_HOME=tmp_path / "work/hf")).splitlines()
    assert mounts == [f"{tmp_path}/work:{tmp_path}/work", f"{snapshot}:{snapshot}:ro"]
    mounts = ok(shell(code, "container_mounts", WORK=tmp_path / "work", HF_HOME=tmp_path / "none", CONTAINER_MOUNTS="/"
                      f"tmp:/x,{tmp_path}:{tmp_path},/tmp:/x")).splitlines()  # fmt: skip
    assert mounts == [f"{tmp_path}:{tmp_path}", f"{snapshot}:{snapshot}:ro", "/tmp:/x"]
    # WORK in the code, as it is by default, stays writable.
    mounts = ok(shell(code, "container_mounts", WORK=snapshot / "work")).splitlines()
    assert mounts == [f"{snapshot}:{snapshot}:ro", f"{snapshot}/work:{snapshot}/work"]


def test_wrong_options_of_the_runtime_are_one_line(stand_ins: Repo, tmp_path: Path) -> None:
    def refused(*texts: str, **env: object) -> None:
        failed(shell(stand_ins, "container cpu", **env), *texts)

    refused("CONTAINER_RUNTIME=shifter; it is pyxis, enroot,", CONTAINER_RUNTIME="shifter")
    refused("CONTAINER_RUNTIME=shifter; it is pyxis, enroot,", CONTAINER_RUNTIME="shifter", CONTAINER_IMAGE=tmp_path)
    for runtime, suffix in (("pyxis", "sqsh"), ("enroot", "sqsh"), ("apptainer", "sif")):
        image = f"{stand_ins.work}/images/cpu-{tag(stand_ins, 'cpu')}.{suffix}"
        remedy = f"there is no image {image}; run: make container ENGINE=cpu CONTAINER_RUNTIME={runtime}"
        refused(remedy, CONTAINER_RUNTIME=runtime)
    for runtime in ("docker", "podman"):
        remedy = f"has no image nemo-sft-repro/cpu:{tag(stand_ins, 'cpu')}; run: make container ENGINE=cpu"
        refused(f"{runtime} {remedy}", CONTAINER_RUNTIME=runtime)
    refused("there is no image /no/image; set", CONTAINER_RUNTIME="enroot", CONTAINER_IMAGE="/no/image")
    image = {"CONTAINER_RUNTIME": "pyxis", "CONTAINER_IMAGE": "nvcr.io#nvidia/nemo-rl:v0.7.0"}
    refused("/no/data does not exist and cannot be mounted; create it", CONTAINER_MOUNTS="/no/data", **image)
    for wrong in ("data", "/tmp:data", "/tmp:/x:rw", "/tmp:/x:ro:z", "/"):
        refused(f"'{wrong}' cannot be mounted; give src[:dst[:ro]]", CONTAINER_MOUNTS=wrong, **image)
    refused("two mounts at /x; fix", CONTAINER_MOUNTS="/tmp:/x,/usr:/x", **image)
    ok(shell(stand_ins, "container cpu && [[ ${SRUN_CONTAINER[0]} == *'=nvcr.io#nvidia/nemo-rl:v0.7.0' ]]", **image))


def test_a_run_without_its_image_is_refused_before_it_begins(copy: Repo) -> None:
    for runtime, launcher, text in (
        ("apptainer", "local", "run: make container ENGINE=cpu CONTAINER_RUNTIME=apptainer"),
        ("enroot", "slurm", "run: make container ENGINE=cpu CONTAINER_RUNTIME=enroot"),
        ("pyxis", "local", "CONTAINER_RUNTIME=pyxis is srun's; use LAUNCHER=slurm"),
        ("shifter", "local", "it is pyxis, enroot"),
    ):
        result = copy.call("scripts/submit.sh", "train", "mini", "1", CONTAINER_RUNTIME=runtime, LAUNCHER=launcher)
        failed(result, text)
    assert not list(copy.run_dir().glob("code/*")) and not (copy.run_dir() / "train").exists()
    failed(copy.call("bash", "sbatch/train.sbatch", "mini", "1", CONTAINER_RUNTIME="pyxis"), "pyxis is srun's; submit")


# --- make container ----------------------------------------------------------------------------------------------


def test_every_engine_has_a_dockerfile_a_base_and_a_smoke_test() -> None:
    pins = dict(line.split("=", 1) for line in (ROOT / "docker/versions.env").read_text().splitlines() if "=" in line)
    assert sorted(f.stem for f in (ROOT / "docker").glob("*.Dockerfile")) == ["cpu", "engine", "vllm"]
    assert sorted(
        key.removesuffix("_IMAGE").lower().replace("_", "-") for key in pins if key.endswith("_IMAGE")
    ) == list(ENGINES)
    for engine in ENGINES:
        key = engine.upper().replace("-", "_")
        assert re.fullmatch(r"[a-z0-9./-]+:[A-Za-z0-9._-]+", pins[f"{key}_IMAGE"])
        assert re.fullmatch(r"unset|sha256:[0-9a-f]{64}", pins[f"{key}_DIGEST"])
        text = dockerfile(engine).read_text()
        assert "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n" in text
        which = engine if engine in ("cpu", "vllm") else r'"\$\{ENGINE%-llama3\}"'
        assert re.search(rf"python3? /opt/nemo-sft-repro/docker/smoke.py {which} >", text.split("RUN")[-1])
        assert which == engine or "\nARG ENGINE\n" in text.split("FROM")[1].split("RUN")[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_smoke_test_is_of_the_engine_and_sees_its_code(engine: str, tmp_path: Path) -> None:
    """The last step of the build, with a python that says how it was called: the image's PYTHONPATH is its own."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$PYTHONPATH ${0##*/} $*"\n')
    python.chmod(0o755)
    step = dockerfile(engine).read_text().split("\nRUN ")[-1].partition("\n#")[0]
    step = step.replace("/opt/venv/bin/python", "python").replace("python3 ", "python ")
    step = step.replace("/opt/nemo-sft-repro/VERSIONS", str(tmp_path / "VERSIONS"))
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": "/nvidia", "ENGINE": engine}
    shown = subprocess.run(["sh", "-c", step], env=env, capture_output=True, text=True, check=True).stdout
    path = "/opt/nemo-rl" if engine == "nemo-rl" else "/nvidia"
    assert shown == f"{path} python /opt/nemo-sft-repro/docker/smoke.py {engine.removesuffix('-llama3')}\n"


@pytest.mark.parametrize("engine", ENGINES)
def test_what_an_image_copies_runs_without_the_rest(engine: str, tmp_path: Path) -> None:
    """A script that an image copies may source only what is copied beside it: --help runs all that it sources."""
    for line in dockerfile(engine).read_text().splitlines():
        if line.startswith("COPY "):
            *files, target = line.split()[1:]
            for file in files:
                to = tmp_path / target.removeprefix("/opt/nemo-sft-repro/") / Path(file).name
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, to)
    run = [p for p in tmp_path.rglob("*.sh") if os.access(p, os.X_OK)]
    assert bool(run) == (engine in ("cpu", "vllm"))
    for script in run:
        shown = subprocess.run([script, "--help"], capture_output=True, text=True, cwd="/")
        assert not shown.returncode and shown.stdout.startswith(script.name) and not shown.stderr, shown


def test_a_smoke_test_that_fails_says_which_import(tmp_path: Path) -> None:
    run = [sys.executable, ROOT / "docker/smoke.py"]
    fails = subprocess.run([*run, "nemo-rl"], capture_output=True, text=True, cwd=tmp_path)
    assert fails.returncode == 1 and "cannot import ray (No module named 'ray'); the image" in fails.stderr, fails
    fails = subprocess.run([*run, "torch"], capture_output=True, text=True)
    assert fails.returncode == 1 and "which engine; usage" in fails.stderr


def test_an_image_is_known_by_what_it_is_built_from(code: Repo) -> None:
    before = {engine: tag(code, engine) for engine in ENGINES}
    assert len(set(before.values())) == 6 and all(re.fullmatch("[0-9a-f]{12}", t) for t in before.values())
    code.edit("docker/requirements.txt", "torch==", "torch==9")
    code.edit("docker/versions.env", "NEMO2_DIGEST=unset", f"NEMO2_DIGEST={DIGEST}")
    (code.root / "scripts/demo.sh").write_text("")
    assert {e for e in ENGINES if tag(code, e) != before[e]} == {"cpu", "nemo2"}
    assert ok(shell(code, "container_base nemo2")) == f"nvcr.io/nvidia/nemo@{DIGEST}\n"
    assert ok(shell(code, "container_base cpu", BASE_IMAGE="mirror/debian:12")) == "mirror/debian:12\n"
    assert tag(code, "cpu", BASE_IMAGE="mirror/debian:12") != tag(code, "cpu")
    assert len({tag(code, engine, BASE_IMAGE="mirror/one") for engine in ENGINES}) == 6


@pytest.mark.parametrize(
    ("runtime", "builder", "steps"),
    [
        ("enroot", "docker", ["enroot import --output PART dockerd://IMAGE"]),
        ("pyxis", "podman", ["enroot import --output PART podman://IMAGE"]),
        ("apptainer", "docker", ["apptainer build PART docker-daemon:IMAGE"]),
        (
            "apptainer", "podman",
            ["podman push IMAGE docker-archive:PART.tar", "apptainer build PART docker-archive:PART.tar"],
        ),
        ("docker", "", []),
        ("podman", "", []),
        ("none", "", []),
    ],
)  # fmt: skip
def test_an_image_is_built_once_and_imported_atomically(
    stand_ins: Repo, runtime: str, builder: str, steps: list[str]
) -> None:
    repo, env = stand_ins, {"CONTAINER_RUNTIME": runtime} | ({"BUILDER": builder} if builder else {})
    builder = builder or {"none": "docker"}.get(runtime, runtime)
    suffix = {"enroot": "sqsh", "pyxis": "sqsh", "apptainer": "sif"}.get(runtime, builder)
    make = ("make", "-s", "container", "ENGINE=nemo-rl")
    planned = ok(repo.call(*make, "DRY_RUN=1", **env)).splitlines()
    assert calls(repo) == [] and not repo.work.exists()

    out = ok(repo.call(*make, "BUILDER_ARGS=--network=host --no-cache", **env))
    image, target = (
        f"nemo-sft-repro/nemo-rl:{tag(repo, 'nemo-rl')}",
        f"{repo.work}/images/nemo-rl-{tag(repo, 'nemo-rl')}",
    )
    build = (
        f"{builder} build --build-arg BASE_IMAGE=nvcr.io/nvidia/nemo-rl:v0.7.0 --build-arg ENGINE=nemo-rl --tag {image}"
        f" --file {repo.root}/docker/engine.Dockerfile {repo.root}"
    )
    import_ = [s.replace("PART", f"{target}.{suffix}.part").replace("IMAGE", image) for s in steps]
    made = [f"{builder} pull nvcr.io/nvidia/nemo-rl:v0.7.0", build]
    assert [line for line in planned if not line.startswith(("mv ", "rm "))] == made + import_
    done = calls(repo)
    assert [line for line in done if line.split()[1] not in ("create", "cp", "rm")] == [
        made[0], build.replace(" --build-arg", " --network=host --no-cache --build-arg", 1), *import_
    ]  # fmt: skip
    record = json.loads(Path(f"{target}.{suffix}.DONE").read_text())
    code = record.pop("code")
    assert code["commit"] and record == {
        "engine": "nemo-rl", "base": "nvcr.io/nvidia/nemo-rl:v0.7.0", "base_digest": DIGEST,
        "tag": tag(repo, "nemo-rl"), "versions": {"engine": "1.2"},
    }  # fmt: skip
    if steps:
        assert Path(f"{target}.{suffix}").read_text() == "whole\n"
    assert not list(Path(repo.work, "images").glob("*.part*"))
    assert f"the base was {DIGEST}; pin it in docker/versions.env as NEMO_RL_DIGEST" in out
    kept = "".join(f.read_text() for f in repo.work.rglob("*") if f.is_file()) + out + "".join(done)
    assert "secret" not in kept

    again = ok(repo.call(*make, **env))
    assert calls(repo) == [] and "is already there" in again
    if steps:
        Path(f"{target}.{suffix}").unlink()
        ok(repo.call(*make, **env))
        assert [line for line in calls(repo) if line.split()[1] not in ("create", "cp", "rm")] == import_


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ("pull", "cannot pull nvcr.io/nvidia/nemo:25.04.01 (no pull today); check the network, log in"),
        ("build", "the image of nemo2 could not be built (no build today); see "),
        ("import", "the image could not be imported (no import today); see "),
    ],
)
def test_a_failure_leaves_nothing_that_looks_done(stand_ins: Repo, step: str, text: str) -> None:
    env = {"CONTAINER_RUNTIME": "apptainer", "BUILDER": "docker"}
    failed(stand_ins.call("scripts/container.sh", "nemo2", FAIL=step, **env), text)
    left = [f.name for f in (stand_ins.work / "images").iterdir()]
    assert sorted(left) == [".lock", "logs"], left
    calls(stand_ins)
    ok(stand_ins.call("scripts/container.sh", "nemo2", **env))
    assert [line.split()[1] for line in calls(stand_ins)].count("build") == {"pull": 2, "build": 2, "import": 1}[step]


def test_wrong_calls_of_make_container_are_one_line(stand_ins: Repo) -> None:
    def refused(*arguments: str, text: str, status: tuple[int, ...] = (2,)) -> None:
        result = stand_ins.call("scripts/container.sh", arguments[0], **dict(a.split("=") for a in arguments[1:]))
        failed(result, text, status=status)

    refused(
        "",
        text="say which image, e.g. make container ENGINE=cpu; "
        "engines: automodel, cpu, nemo-rl, nemo2, nemo2-llama3, vllm",
    )
    refused("sglang", text="there is no image for engine 'sglang'; it is automodel, cpu")
    refused("cpu", "BUILDER=kaniko", text="BUILDER=kaniko does not go with CONTAINER_RUNTIME=none; take docker podman")
    refused("cpu", "BUILDER=podman", "CONTAINER_RUNTIME=docker", text="does not go with CONTAINER_RUNTIME=docker; take")
    refused("cpu", "CONTAINER_RUNTIME=shifter", text="CONTAINER_RUNTIME=shifter; it is pyxis")
    folder = Path(stand_ins.env["PATH"])
    (folder / "enroot").unlink()
    refused("cpu", "CONTAINER_RUNTIME=pyxis", text="there is no enroot here", status=(1,))
    for name in ("docker", "podman", "buildah"):
        (folder / name).unlink()
    refused("cpu", text="there is no docker podman buildah here; install one", status=(1,))
    failed(stand_ins.call("make", "-s", "train", "MODEL=tiny", "ENGINE=cpu"), "ENGINE comes from recipes/; copy")
    assert calls(stand_ins) == []


# --- pyxis: a real srun, with a double of the plugin ---------------------------------------------------------------


@pytest.fixture(scope="module")
def pyxis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Slurm that loads the double of pyxis, and an image, made of busybox, that srun's tasks start in."""
    folder = tmp_path_factory.mktemp("pyxis")
    busybox = shutil.which("busybox")
    if not (shutil.which("gcc") and busybox and shutil.which("mksquashfs") and Path("/usr/include/slurm").is_dir()):
        missing("gcc, libslurm-dev, busybox-static or squashfs-tools is missing; run tests/install.sh")
    plugin, rootfs, image = folder / "pyxis_double.so", folder / "rootfs", folder / "image.sqsh"
    source = SLURM / "pyxis_double.c"
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", plugin, source], check=True)
    for name in ("usr/bin", "usr/lib", "usr/lib64", "etc", "tmp"):
        (rootfs / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (rootfs / name).symlink_to(f"usr/{name}")
    shutil.copy(busybox, rootfs / "usr/bin/busybox")
    subprocess.run(["chroot", rootfs, "/bin/busybox", "--install", "-s", "/usr/bin"], check=True)
    (rootfs / "etc/passwd").write_text("root:x:0:0:root:/tmp:/bin/sh\n")
    (rootfs / "etc/environment").write_text("NCCL_DEBUG=from-image\nPATH=/usr/bin\nIMAGE_ONLY=from-image\n")
    subprocess.run(["mksquashfs", rootfs, image, "-quiet", "-no-progress"], check=True, stdout=subprocess.DEVNULL)
    with running_slurm(2, SPANK=str(plugin)) as env:
        yield env | {"IMAGE": str(image)}


def srun(repo: Repo, command: str, *options: str, **env: object) -> subprocess.CompletedProcess[str]:
    """`command` in what the double makes of the options of `container nemo-rl`."""
    script = f"""
        mkdir -p "$WORK/images"
        target=$(container_target nemo-rl)
        [[ -e $target ]] || cp "$IMAGE" "$target"
        container nemo-rl
        srun --nodes=1 --ntasks=1 "${{SRUN_CONTAINER[@]}}" {" ".join(options)} "${{BOX[@]}}" sh -c {command!r}
    """
    return shell(repo, script, CONTAINER_RUNTIME="pyxis", **env)


def test_srun_takes_the_options_and_the_image_holds(code: Repo, pyxis: dict[str, str], tmp_path: Path) -> None:
    """Mounts, ro, the working folder, the environment, and what must not be seen."""
    code.env |= pyxis
    more = tmp_path / "more"
    more.mkdir()
    (more / "file").write_text("from the host")
    env = {"CONTAINER_MOUNTS": f"{more}:/more:ro", "NCCL_DEBUG": "from-job", "IMAGE_ONLY": "from-job"}
    out = ok(srun(
        code,
        "pwd; cat /more/file; echo; touch /more/new 2>&1; touch scripts/new 2>&1; touch $WORK/new && echo written; "
        "echo $NCCL_DEBUG $IMAGE_ONLY ${#HF_TOKEN} $SLURM_PROCID; ls /usr/bin/python3 $IMAGE 2>&1; "
        "touch /new; ls -d /[a-z]*",
        **env,
    )).splitlines()  # fmt: skip
    assert out[:2] == [str(code.root), "from the host"]
    assert out[2].endswith("/more/new: Read-only file system") and out[3].endswith("scripts/new: Read-only file system")
    assert out[4:6] == ["written", f"from-job from-image {len(SECRETS['HF_TOKEN'])} 0"]
    assert "/usr/bin/python3: No such file" in out[6] and "image.sqsh: No such file" in out[7]
    assert "/new" in out[8:] and "/more" in out and not {"/home", "/root", "/opt"} & set(out)
    assert (code.work / "new").is_file() and not (more / "new").exists() and not (code.root / "scripts/new").exists()
    assert ok(srun(code, "ls /new 2>&1 || true")).strip().endswith("No such file or directory"), (
        "the image was written to"
    )
    assert ok(srun(code, "touch /new 2>&1 || true", "--container-readonly")).strip().endswith("Read-only file system")


def test_srun_without_the_image_or_a_mount_fails(code: Repo, pyxis: dict[str, str], tmp_path: Path) -> None:
    code.env |= pyxis
    gone = srun(code, "true", '"--container-image=$WORK/gone.sqsh"')
    assert gone.returncode and "couldn't find image" in gone.stderr, gone
    gone = srun(code, "true", "--container-mounts=/no/such:/folder")
    assert gone.returncode and "couldn't mount /no/such at /folder" in gone.stderr, gone
    assert srun(code, "exit 7").returncode == 7
    assert "[pyxis double]" in ok(code.call("srun", "--help"))


def with_python(repo: Repo, pyxis: dict[str, str]) -> dict[str, str]:
    """Engine automodel's image: a file system that has Python only because it is mounted there. Returns the options."""
    repo.env |= pyxis
    repo.work.mkdir(exist_ok=True)
    target = ok(shell(repo, "container_target cpu", CONTAINER_RUNTIME="pyxis")).strip()
    Path(target).parent.mkdir()
    shutil.copy(pyxis["IMAGE"], target)
    mounts = [f"{repo.env['VENV']}:/opt/venv:ro", "/usr/lib:/usr/lib:ro", "/usr/lib64:/usr/lib64:ro"]
    base = Path(sys.base_prefix).resolve()
    mounts += (
        [f"{base}:{base}:ro"] if base != Path("/usr") else [f"{p}:{p}:ro" for p in Path("/usr/bin").glob("python3*")]
    )
    return {"CONTAINER_RUNTIME": "pyxis", "CONTAINER_MOUNTS": ",".join(mounts)}


@pytest.mark.slow
def test_the_doctor_asks_nodes_in_pyxis(repo: Repo, pyxis: dict[str, str]) -> None:
    """torch starts in the image on both nodes and they find each other; without its mounts it does not start."""
    env = with_python(repo, pyxis) | {"NODE": "1"}
    found = repo.call("scripts/tool.sh", "doctor", "mini", "1", **env).stdout
    assert re.search(r"^container +ok +torch \S+ on 2 nodes, by pyxis$", found, re.MULTILINE), found
    assert re.search(r"^network +ok +gloo all-reduce between two nodes: [\d.]+ GB/s$", found, re.MULTILINE), found
    found = repo.call("scripts/tool.sh", "doctor", "mini", "1", **env | {"CONTAINER_MOUNTS": ""}).stdout
    assert re.search(r"^container +fault +torch started on 0 of 2 nodes \(", found, re.MULTILINE), found
    assert "of 2 nodes (srun: " not in found, found


@pytest.mark.slow
def test_a_training_link_in_pyxis(copy: Repo, pyxis: dict[str, str]) -> None:
    """Engine automodel's own srun and launcher."""
    env = with_python(copy, pyxis)
    job = Job(copy, ok(copy.call("sbatch", "--parsable", "sbatch/train.sbatch", "mini", "1", **env)).strip())
    assert job.wait(150) == "COMPLETED", job.log()
    assert (copy.run_dir() / "train/DONE").is_file()
    assert sorted(copy.losses()) == list(range(1, 61))
    [log] = (copy.run_dir() / "train/logs").glob("*.log")
    assert "/opt/venv/" in log.read_text(errors="replace"), "it ran outside"


# --- a real image ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """podman and buildah, with a store of their own, and a Debian in it that was made without a registry."""
    if os.geteuid() or not all(shutil.which(p) for p in ("podman", "buildah", "runc", "debootstrap")):
        missing("this takes root, podman, buildah, runc and debootstrap; run tests/install.sh slow")
    folder = tmp_path_factory.mktemp("podman")
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True).stdout.strip()
    driver = "vfs" if kind.startswith("overlay") else "overlay"
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "{driver}"\ngraphroot = "{folder}/store"\nrunroot = "{folder}/run"\n'
    )
    # Debian's defaults ask for limits that root in a container may not set.
    (folder / "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]\n[engine]\nruntime = "runc"\n'
    )
    env = {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "BASE_IMAGE": "localhost/debian:12",
        "BUILDER_ARGS": f"--network=host --isolation=chroot {pip_arguments(folder)}",
    }
    path = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    base = ["debootstrap", "--variant=minbase", "bookworm", folder / "base"]
    made = subprocess.run(base, capture_output=True, text=True, env=os.environ | path)
    assert made.returncode == 0, made.stdout[-2000:]
    tar = f"tar -C {folder}/base -c . | podman import - {env['BASE_IMAGE']}"
    subprocess.run(["bash", "-c", tar], check=True, env=os.environ | env)
    shutil.rmtree(folder / "base")
    yield env
    subprocess.run(["podman", "rmi", "--all", "--force"], env=os.environ | env, capture_output=True)


def pip_arguments(folder: Path) -> str:
    """Volumes with which pip works in a build as it does here: its settings, and the local files that they name."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings: dict[str, str] = {}
    for line in sorted(listed.stdout.splitlines(), key=lambda line: line.startswith(":env:")):  # these win
        section, name, value = re.fullmatch(r"(\S+)\.([a-z-]+)=(.*)", line).groups()
        if section in ("global", ":env:"):
            settings[name] = value.strip("'\"").replace("\\n", " ").strip()
    volumes = [f"{folder}/pip.conf:/etc/pip.conf"]
    for name, value in settings.items():
        for word in value.split():
            path = Path(word.removeprefix("file://"))
            if name == "cert":  # not in its own place, which the image's own package fills
                volumes.append(f"{path}:/etc/pip-certificates.pem")
                settings[name] = "/etc/pip-certificates.pem"
            elif path.is_absolute() and path.exists():
                path = path.parent if path.name == "simple" else path  # an index has its files beside it
                volumes.append(f"{path}:{path}")
    (folder / "pip.conf").write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    return " ".join(f"--volume={volume}:ro" for volume in sorted(set(volumes)))


@pytest.mark.slow
def test_an_image_that_is_really_built_trains(copy: Repo, trained: Repo, real: dict[str, str]) -> None:
    """buildah builds docker/cpu.Dockerfile; podman runs a training link in it, with the same losses as without."""
    copy.env |= real | SECRETS
    make = ("make", "-s", "container", "ENGINE=cpu", "CONTAINER_RUNTIME=podman", "BUILDER=buildah")
    out = ok(copy.call(*make, timeout=600))
    record = json.loads(next((copy.work / "images").glob("cpu-*.buildah.DONE")).read_text())
    assert record["versions"]["torch"].startswith("2.") and record["versions"]["nemo-automodel"] == "0.7.0", record
    assert re.fullmatch("sha256:[0-9a-f]{64}", record["base_digest"]) and "is ready" in out
    assert "is already there" in ok(copy.call(*make))
    shown = ok(copy.call("podman", "inspect", f"nemo-sft-repro/cpu:{record['tag']}"))
    assert "secret" not in shown and "secret" not in next((copy.work / "images/logs").iterdir()).read_text()

    link = copy.call("bash", "sbatch/train.sbatch", "mini", "1", CONTAINER_RUNTIME="podman", timeout=300)
    ok(link)
    assert (copy.run_dir() / "train/DONE").is_file()
    assert copy.losses().keys() == trained.losses().keys()
    assert list(copy.losses().values()) == pytest.approx(list(trained.losses().values()), rel=1e-3)
    [log] = (copy.run_dir() / "train/logs").glob("*.log")
    assert "/opt/venv/" in log.read_text(errors="replace"), "it ran outside"

    # A base without the engine: the smoke test fails, and there is no image.
    copy.edit("docker/engine.Dockerfile", "&& python", "&& /opt/venv/bin/python")
    base = f"localhost/nemo-sft-repro/cpu:{record['tag']}"
    env = {"CONTAINER_RUNTIME": "podman", "BUILDER": "buildah", "BASE_IMAGE": base}
    failed(copy.call("scripts/container.sh", "nemo2", **env), "of nemo2 could not be built", "cannot import lightning")
    assert "nemo2" not in ok(copy.call("podman", "images"))
