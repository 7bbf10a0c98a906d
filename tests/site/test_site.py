"""The pieces of make doctor: what the answers of a site's programs mean."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sft.recipe.paths import Paths
from sft.recipe.read import load
from sft.site import container, hub, machine, node, slurm, storage
from sft.site.check import FAULT, OK, UNCHECKED, WARNING, Site, split
from sft.site.programs import ask, fields, lines, said


def program(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that takes precedence over the real one."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


# --- programs ------------------------------------------------------------------------------------------------------


def test_a_program_is_asked_without_the_users_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SQUEUE_FORMAT", "SINFO_SORT", "SLURM_TIME_FORMAT", "SLURM_CONF", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "x")
    shown = ask("env", WORK="/w")
    assert shown and {"SLURM_CONF=x", "SBATCH_ACCOUNT=x", "WORK=/w"} <= set(shown.stdout.splitlines())
    assert not any(line.startswith(("SQUEUE_", "SINFO_", "SLURM_TIME")) for line in shown.stdout.splitlines())
    assert ask("no-such-program") is None and lines(None) is None and lines(ask("false")) is None
    assert ask("sleep", "5", seconds=0.1) is None


def test_what_a_program_says() -> None:
    answer = ask("sh", "-c", "echo Welcome; echo 'sbatch: warning: x' >&2; echo 'sbatch: error: full' >&2; exit 1")
    assert said(answer) == "full"
    assert said(ask("sh", "-c", "echo a; echo b; exit 1")) == "b"
    assert said(ask("sh", "-c", "exit 3")) == "status 3" and said(None) == "no answer"
    assert fields("PartitionName=a State=UP MaxTime=1-00:00:00 TRES=cpu=1,mem=2M") == {
        "PartitionName": "a", "State": "UP", "MaxTime": "1-00:00:00", "TRES": "cpu=1,mem=2M",
    }  # fmt: skip
    assert split("error: a is b; do c; or d") == ("a is b", "do c; or d")


# --- Slurm ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gres, kind, count",
    [
        ("gpu:8", "", 8),
        ("gpu:8", "a100", 0),
        ("gpu:a100:4(S:0-1)", "", 4),
        ("gpu:a100:4(S:0-1)", "a100", 4),
        ("gpu:a100:2,gpu:h100:6(S:1)", "h100", 6),
        ("gpu:a100:2,gpu:h100:6(S:1)", "", 8),
        ("nvme:1,gpu:2", "", 2),
        ("(null)", "", 0),
        ("gpu_mem:80", "", 0),
    ],
)
def test_gpus_of_a_node(gres: str, kind: str, count: int) -> None:
    assert slurm.Node("n", True, gres).gpus(kind) == count


def test_nodes_that_take_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A star: it does not answer; a tilde: it is powered down, and comes up for a job."""
    states = ("idle", "mix", "alloc", "idle~", "down*", "drain", "drng", "idle*", "resv", "comp")
    rows = "\n".join(f"n{i}|{state}|gpu:8" for i, state in enumerate(states))
    program(tmp_path / "bin", "sinfo", f"echo '{rows}'; echo Welcome", monkeypatch)
    assert [n.name for n in slurm.nodes_of("x") if n.up] == ["n0", "n1", "n2", "n3", "n8", "n9"]
    site = Site(Path("/w"), Path("/v"), nodes=6, gpus=8)
    nodes = slurm.nodes_of("x")
    assert [c.verdict for c in slurm.enough(site, "x", nodes)] == [OK, OK]
    assert [c.verdict for c in slurm.enough(site._replace(nodes=7), "x", nodes)] == [WARNING, OK]
    assert slurm.enough(site._replace(nodes=11), "x", nodes)[0].verdict == FAULT
    few = slurm.gpus(site._replace(gpus=9), "x", nodes)
    assert few.found == "partition x has 0 nodes with 9 GPUs; a node has 8 GPUs at most"
    assert slurm.gpus(site._replace(gpus_flag="none"), "x", nodes).verdict == UNCHECKED


def test_partitions_by_name() -> None:
    known = {"a": {"PartitionName": "a", "State": "DOWN"}, "b": {"PartitionName": "b", "State": "UP", "Default": "YES"}}
    assert slurm.partition("a,b", known, "X")[1] == known["b"] == slurm.partition("", known, "X")[1]
    check, found = slurm.partition("a", known, "X")
    assert (check.verdict, found) == (FAULT, None) and check.remedy == "ask the site, or set X to one that is up (b)"
    assert slurm.partition("b,c", known, "X")[0].found == "there is no partition c"
    assert slurm.partition("", {}, "X")[0].found == "Slurm has no default partition"


def test_time_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (slurm.seconds("1-00:00:00"), slurm.seconds("30:00"), slurm.seconds("NONE")) == (86400, 1800, None)
    assert (slurm.span(86400), slurm.span(5400)) == ("1-00:00:00", "01:30:00")
    monkeypatch.delenv("SBATCH_TIMELIMIT", raising=False)
    assert slurm.limit_of({"DefaultTime": "NONE", "MaxTime": "10"}) == "10"
    assert slurm.limit_of({"DefaultTime": "5", "MaxTime": "10"}) == "5"
    site, part = Site(Path("/w"), Path("/v")), {"PartitionName": "p", "MaxTime": "01:00:00"}
    for text, reserve, verdict in (("60", "0", OK), ("61", "0", FAULT), ("soon", "0", FAULT), ("2", "120", WARNING)):
        monkeypatch.setenv("SBATCH_TIMELIMIT", text)
        monkeypatch.setenv("SAVE_RESERVE", reserve)
        assert slurm.limit(site, part).verdict == verdict, text


# --- storage -------------------------------------------------------------------------------------------------------

MOUNTS = """/dev/sda1 / ext4 rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
10.0.0.1@o2ib:/fs /lustre lustre rw 0 0
server:/export/me /lustre/with\\040blank nfs4 rw 0 0
tmpfs /lustre tmpfs rw 0 0
"""


def test_the_mount_of_a_folder() -> None:
    assert storage.mount_of(Path("/home/x"), MOUNTS).kind == "ext4"
    assert storage.mount_of(Path("/lustre/with blank/w"), MOUNTS) == (
        "server:/export/me", "/lustre/with blank", "nfs4",
    )  # fmt: skip
    assert storage.mount_of(Path("/lustre/me"), MOUNTS).kind == "tmpfs", "what was mounted last covers the others"
    assert storage.mount_of(Path("/lustrex"), MOUNTS).target == "/"


# As lfs quota -q (of Lustre 2.15) and quota -w -p (of Linux's quota tools 4) print them.
LFS = "         /lustre  900*   800     1000    6d23h       7       0       9       -\n"
LFS_LONG = "/a/very/long/name/of/a/file/system\n   900     0       0       -       7       0       0       -\n"
QUOTA = """Disk quotas for user me (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
      /dev/sda1     500     600       0       0      42       0       0       0
"""


def test_quotas() -> None:
    assert storage.read_quota(LFS, ("/lustre",)) == (900 * 1024, 1000 * 1024, 7, 9)
    assert storage.read_quota(LFS_LONG, ("/a/very/long/name/of/a/file/system",)) == (900 * 1024, 0, 7, 0)
    assert storage.read_quota(QUOTA, ("/w", "/dev/sda1", "/")) == (500 * 1024, 600 * 1024, 42, 0)
    assert storage.read_quota(QUOTA, ("/dev/sdb1",)) is None and storage.read_quota("", ("/",)) is None


@pytest.mark.parametrize(
    "row, missing, verdict",
    [
        ("100 0 1000 - 7 0 0 -", 900 * 1024, OK),
        ("100 0 1000 - 7 0 0 -", 901 * 1024, FAULT),
        ("1000* 0 1000 - 7 0 0 -", None, FAULT),
        ("100 0 0 - 9 0 9 -", None, FAULT),
        ("100 0 0 - 8 0 9 -", None, OK),
        ("100 0 0 - 8 0 0 -", 1e15, OK),
    ],
)
def test_a_quota_against_what_is_to_be_written(
    row: str, missing: float | None, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's and the group's: either may be the tight one."""
    site = Site(tmp_path / "not/yet", tmp_path)
    for tight, wide in (("-u", "-g"), ("-g", "-u")):
        said = f'"quota -q {tight}") echo "$5 {row}";; "quota -q {wide}") echo "$5 1 0 0 - 1 0 0 -"'
        program(tmp_path / "bin", "lfs", f'case "$1 $2 $3" in {said};; esac', monkeypatch)
        assert storage.quota(site, missing).verdict == verdict


def test_the_quota_of_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = storage.mount_of(tmp_path, Path("/proc/mounts").read_text()).source
    text = QUOTA.replace("/dev/sda1", source)
    group = text.replace("user me (uid", "group us (gid").replace("500     600 ", "500     501 ")
    program(tmp_path / "bin", "quota", f"cat <<'END'\n{text}{group}END\nexit 1", monkeypatch)
    found = storage.quota(Site(tmp_path, tmp_path), 2000)
    assert found.verdict == FAULT and found.found == "quota: 0.0 MB of 0.5 MB left, 0.0 MB still to be written"
    assert storage.quota(Site(tmp_path, tmp_path), 1000).verdict == OK
    program(tmp_path / "bin", "quota", "echo 'Disk quotas for user me (uid 1000): none'", monkeypatch)
    assert storage.quota(Site(tmp_path, tmp_path), 1000).found.startswith("quota has no limit for /")


def test_work_by_its_mount(tmp_path: Path) -> None:
    site = Site(tmp_path / "w", tmp_path)
    assert storage.shared(site, 1).verdict == storage.shared(site, 0).verdict == OK
    assert storage.shared(site, 2).verdict == WARNING
    assert "NODE=1" in storage.shared(site, 2).remedy
    assert [c.verdict for c in storage.room(site, 1e18)][:1] == [FAULT]


def test_a_full_disk(small_disk: Path) -> None:
    [room, _] = storage.room(Site(small_disk, small_disk), 2**20 + 1)
    assert room.verdict == FAULT and room.found == "1.0 MB free, 1.0 MB still to be written"


# --- the hub -------------------------------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_the_hub_is_asked_only_where_it_is_needed(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    recipe = load("qwen7b", "1")
    paths = Paths(tmp_path, "qwen7b", "1", recipe)
    need = hub.wanted(recipe, paths)
    assert need == {"Qwen/Qwen2.5-Math-7B": "MODEL_SRC", "nvidia/OpenMathReasoning": "DATA_SRC"}
    site = Site(tmp_path, tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert hub.hub(site, need) == ("hub", OK, f"{endpoint} answers", "")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub.hub(site, need).verdict == FAULT and hub.hub(site, None).verdict == WARNING
    for word in ("1", "true", "Yes"):
        monkeypatch.setenv("HF_HUB_OFFLINE", word)
        check = hub.hub(site, need)
        assert check.verdict == FAULT and check.remedy == "unset it, or give the files with MODEL_SRC and DATA_SRC"
    for folder in (paths.base, paths.data):
        folder.mkdir(parents=True)
        (folder / "DONE").touch()
    assert hub.wanted(recipe, paths) == {} and hub.hub(site, {}).verdict == OK
    second = load("qwen7b", "2")
    assert hub.wanted(second, Paths(tmp_path / "x", "qwen7b", "2", second)) == {"nvidia/OpenMathReasoning": "DATA_SRC"}


def test_a_token_is_looked_for_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "WANDB_PROJECT", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    gated = {"meta-llama/Meta-Llama-3-8B": "MODEL_SRC"}
    assert hub.tokens(gated).verdict == FAULT and hub.tokens({"Qwen/x": "MODEL_SRC"}).verdict == OK
    (tmp_path / "token").write_text("hf_secret")
    assert hub.tokens(gated) == ("tokens", OK, f"in {tmp_path}/token (not shown)", "")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert hub.tokens(gated).found == "HF_TOKEN is set (not shown)"
    monkeypatch.setenv("WANDB_PROJECT", "p")
    assert hub.tokens({}).verdict == WARNING


def test_wandb_is_looked_for_where_the_recipe_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link without the package would end; whether an image has it, nobody can tell from here."""
    for name in ("WANDB_PROJECT", "WANDB_MODE", "WANDB_API_KEY", "CONTAINER_RUNTIME", "NEMO2_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bin").mkdir()
    recipe = load("tiny", "1")
    site = Site(tmp_path, tmp_path, recipe=recipe)
    python = tmp_path / "bin/python"

    def has(package: bool, where: Path = python) -> None:
        where.write_text(f"#!/bin/sh\nexit {0 if package else 4}\n")
        where.chmod(0o755)

    has(False)
    assert hub.wandb(site) == [], "not asked for"
    monkeypatch.setenv("WANDB_PROJECT", "p")
    assert hub.tokens({}).verdict == WARNING
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert hub.tokens({}).verdict == OK, "it needs no key"
    [check] = hub.wandb(site)
    assert check.verdict == FAULT and check.found == f"WANDB_PROJECT is set, and {python} has no package wandb"
    assert check.remedy == "run: scripts/setup.sh loggers, or unset it"
    has(True)
    assert [check.verdict for check in hub.wandb(site)] == [OK]
    python.unlink()
    assert [check.verdict for check in hub.wandb(site)] == [UNCHECKED]
    assert hub.wandb(site._replace(stage="eval")) == [], "it trains nothing"
    assert hub.wandb(site._replace(recipe=load("qwen7b", "1"))) == [], "NeMo-RL has it"
    nemo2 = site._replace(recipe=load("llama3-lora", "nemo2"))
    monkeypatch.setenv("NEMO2_PYTHON", str(tmp_path / "nemo"))
    has(False, tmp_path / "nemo")
    [check] = hub.wandb(nemo2)
    assert check.verdict == FAULT and check.remedy == "install it there, or unset it"
    monkeypatch.setenv("CONTAINER_RUNTIME", "docker")
    assert [check.verdict for check in hub.wandb(nemo2)] == [UNCHECKED]


# --- machine, container, nodes -------------------------------------------------------------------------------------


def test_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "make", "echo 'GNU Make 3.81'", monkeypatch)
    assert machine.version("make") == (3, 81) and machine.version("no-such-program") is None
    check = machine.tool("make", (3, 81), machine.MAKE)
    assert check == ("make", FAULT, "make 3.81 is older than 3.82", "put make 3.82 or later first in PATH")
    assert machine.tool("make", None, machine.MAKE).verdict == WARNING


def test_the_environment_of_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, tmp_path / "venv", ignored=tuple(f"PIP_{i}" for i in range(7)))
    assert machine.venv(site).remedy == "run: make setup"
    monkeypatch.setattr(machine, "ROOT", tmp_path / "clone")
    (tmp_path / "clone").mkdir()
    fresh = machine.venv(site._replace(venv=tmp_path / "clone/.venv"))
    assert fresh.verdict == WARNING and "make setup" in fresh.remedy, "a first look needs no setup"
    monkeypatch.undo()
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").touch(mode=0o755)
    (tmp_path / "venv/PINS").write_text("other\n")
    assert "other pins" in machine.venv(site).found
    assert machine.environment(site).found.endswith("PIP_0, PIP_1, PIP_2, PIP_3, PIP_4 and 2 more")


def test_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, tmp_path, "slurm", container="--container-image=/w/images/x.sqsh")
    monkeypatch.setenv("CONTAINER_RUNTIME", "pyxis")
    program(tmp_path / "bin", "srun", "echo --cpus-per-task", monkeypatch)
    assert container.checks(site)[0].found == "srun has no --container-image: Slurm runs without pyxis"
    program(tmp_path / "bin", "srun", "echo '      --container-image=[USER@]'", monkeypatch)
    assert container.checks(site) == [("container", OK, "pyxis, /w/images/x.sqsh", "")]
    monkeypatch.setenv("CONTAINER_RUNTIME", "enroot")
    assert container.checks(site._replace(container="/w/x.sqsh"))[0].verdict == UNCHECKED
    check = container.checks(site._replace(container="error: there is no image x; run: make container"))[0]
    assert check == ("container", FAULT, "there is no image x", "run: make container")


def test_what_nodes_say() -> None:
    text = "Welcome\nnode1|1000.5|yes|20000000\nnode2|1001.0|yes|1000\n"
    found = {c.name: c for c in node.facts(text, 1000, 1002, 2)}
    assert [found[name].verdict for name in ("srun", "WORK", "clocks", "/tmp")] == [OK, OK, OK, WARNING]
    assert found["clocks"].found.startswith("0.5 s") and found["/tmp"].found.startswith("1.0 MB free")
    late = {c.name: c for c in node.facts(text, 1011, 1013, 2)}["clocks"]
    assert late.verdict == WARNING and late.found.startswith("10.5 s"), "the job cannot have begun before it was queued"
    assert node.facts("node1|1|yes|1\nsrun: error: node2: Communication failure\n", 0, 2, 2) == [
        (
            "srun", FAULT, "srun reached 1 of 2 nodes (srun: error: node2: Communication failure)",
            "see that srun works in a job: salloc, then srun hostname",
        )
    ]  # fmt: skip
    blind = node.facts("node1|1|yes|1\nnode2|1|no|1\n", 0, 2, 2)[-1]
    assert (blind.name, blind.verdict) == ("WORK", FAULT) and blind.found.startswith("node2 cannot see")


def test_what_torch_says_on_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTAINER_RUNTIME", raising=False)
    both = "torch 2.8.0 gloo rank 0\ntorch 2.8.0 gloo rank 1\n"
    assert [c.verdict for c in node.network(both + "bandwidth 1.25 GB/s\n", 2)] == [OK, OK]
    broken = node.network(both + "RuntimeError: Connection refused\n", 2)[-1]
    assert broken.verdict == FAULT and "(RuntimeError: Connection refused)" in broken.found
    [check] = node.network("python: No module named torch\nsrun: error: node1: task 0: Exited with exit code 2\n", 2)
    assert check.name == "torch" and check.found == "torch started on 0 of 2 nodes (python: No module named torch)"
    monkeypatch.setenv("CONTAINER_RUNTIME", "pyxis")
    assert node.network("pyxis: no such image\n", 2)[0][:2] == ("container", FAULT)
    assert node.network("torch 2.8.0 nccl rank 0\n", 1)[-1].verdict == UNCHECKED
