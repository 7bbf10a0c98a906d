"""make doctor on a real Slurm, each time broken in another way; and before a chain is queued."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Repo, failed, ok, running_slurm

PARTITIONS = """PartitionName=off Nodes=node1 State=DOWN
PartitionName=short Nodes=node1 MaxTime=30 State=UP"""
MINE = ("PIP_", "PYTHON", "SQUEUE_", "SINFO_", "SACCT_", "WANDB_", "CPU_", "GPU", "BRING_UP", "MFU", "SAVE_RESERVE")


@pytest.fixture(scope="module")
def one_node() -> Iterator[dict[str, str]]:
    """A Slurm with a single node of eight GPUs, whose WORK need not be shared."""
    with running_slurm(nodes=1, EXTRA_CONF=PARTITIONS) as env:
        yield env


@pytest.fixture
def site(repo: Repo, one_node: dict[str, str]) -> Repo:
    """A user's account where everything is right; quotas are a program's word, as tests have none of their own."""
    return right(repo, one_node)


def right(repo: Repo, slurm: dict[str, str]) -> Repo:
    repo.env = {k: v for k, v in repo.env.items() if not k.startswith(MINE)} | slurm
    quota(repo, 10**9)
    repo.derive("gpu", DEVICE="gpu")
    return repo


def quota(repo: Repo, kib: int) -> None:
    """lfs that says how much the user may still write, on whatever WORK lies."""
    folder = repo.root / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "lfs").write_text(f'#!/bin/sh\necho "$5 100 0 {100 + kib} - 7 0 0 -"\n')
    (folder / "lfs").chmod(0o755)
    repo.env["PATH"] = f"{folder}:{os.environ['PATH']}"


class Doctor:
    """What make doctor has printed: check -> (verdict, found, remedy)."""

    def __init__(self, result: subprocess.CompletedProcess[str]):
        assert "Traceback" not in result.stderr, result.stderr
        self.text, self.status, self.checks = result.stdout, result.returncode, {}
        for line in result.stdout.splitlines()[1:-1]:
            if row := re.fullmatch(r"(\S+(?: \S+)?) +(ok|warning|fault|not checked) +(.*)", line):
                name = row[1]
                self.checks[name] = (row[2], row[3], "")
            else:
                assert line.strip().startswith("-> "), line
                self.checks[name] = (*self.checks[name][:2], line.strip().removeprefix("-> "))

    def those(self, *verdicts: str) -> list[str]:
        return [name for name, check in self.checks.items() if check[0] in verdicts]

    def only(self, name: str, *words: str, verdict: str = "fault") -> None:
        """Just this check has found something, and says so with `words`; the node is asked by NODE=1 only."""
        assert self.those("fault", "warning") == [name], self.text
        assert self.checks[name][0] == verdict and self.checks[name][2], self.text
        assert self.status == (1 if verdict == "fault" else 0)
        for word in words:
            assert word in " -> ".join(self.checks[name][1:]), self.text


def doctor(repo: Repo, model: str = "mini", **env: object) -> Doctor:
    return Doctor(repo.call("scripts/tool.sh", "doctor", model, "1" if model else "", **env))


def test_everything_is_right(site: Repo) -> None:
    """In seconds, and nothing is written, be it with a recipe or without."""
    begun = time.monotonic()
    found = doctor(site)
    seconds = time.monotonic() - begun
    assert found.status == 0 and found.those("fault", "warning", "not checked") == ["node"], found.text
    assert set(found.checks) == {
        "make", "bash", "Python", ".venv", "settings", "environment", "Slurm", "partition", "nodes", "GPUs", "account",
        "QoS", "time limit", "sbatch", "container", "WORK", "room", "inodes", "quota", "hub", "tokens", "node",
    }, found.text  # fmt: skip
    assert found.text.splitlines()[-1] == f"{len(found.checks) - 1} ok, 1 not checked"
    assert seconds < 60  # it takes one; a machine that does ten other things may be slow
    assert found.checks["partition"][1] == "batch, 1 node, the default"
    assert not site.work.exists() and ok(site.call("squeue", "-h")) == ""
    none = doctor(site, "", HF_ENDPOINT="http://127.0.0.1:9", SBATCH_PARTITION="short")
    none.only("hub", "http://127.0.0.1:9 cannot be reached", verdict="warning")
    assert doctor(site, "gpu").checks["GPUs"][1] == "8 in a node, 1 wanted"


@pytest.mark.parametrize(
    "model, env, name, words",
    [
        ("mini", {"SBATCH_PARTITION": "off"}, "partition", ["off is down", "one that is up (batch, short)"]),
        ("mini", {"SBATCH_PARTITION": "nowhere"}, "partition", ["no partition nowhere", "(batch, short)"]),
        ("mini", {"CPU_PARTITION": "off"}, "CPU_PARTITION", ["off is down", "set CPU_PARTITION"]),
        (
            "mini", {"SBATCH_PARTITION": "short", "SBATCH_TIMELIMIT": "1:00:00"}, "time limit",
            ["SBATCH_TIMELIMIT=1:00:00 is more than the 00:30:00 of partition short", "00:30:00 or less"],
        ),
        ("gpu", {"SBATCH_TIMELIMIT": "5"}, "time limit", ["too short: bring-up", "raise SBATCH_TIMELIMIT"]),
        ("wide", {}, "nodes", ["has 1 node, the recipe wants 2", "make plan MODEL=wide ROUND=1 NODES=1"]),
        ("gpu", {"GPUS_FLAG": "gres:h100"}, "GPUs", ["0 nodes with 1 h100 GPU;", "GPUS_FLAG"]),
        ("mini", {"SBATCH_ARGS": "--mem=9000000"}, "sbatch", ["configuration is not available", "SBATCH_ARGS"]),
        ("mini", {"CONTAINER_RUNTIME": "enroot"}, "container", ["no image /", "run: make container ENGINE=cpu"]),
        ("gpu", {"CONTAINER_RUNTIME": "pyxis", "CONTAINER_IMAGE": "/no/x.sqsh"}, "container", ["no image /no/x.sqsh"]),
        ("hub", {"HF_HUB_OFFLINE": "1"}, "hub", ["HF_HUB_OFFLINE is set, and nvidia/OpenMathReasoning", "DATA_SRC"]),
        ("hub", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "hub", ["cannot be reached", "HF_ENDPOINT", "DATA_SRC"]),
        ("mini", {"VENV": "/nowhere"}, ".venv", ["/nowhere is not set up", "run: make setup"]),
    ],
)  # fmt: skip
def test_one_thing_is_wrong(site: Repo, model: str, env: dict[str, str], name: str, words: list[str]) -> None:
    site.derive("wide", NODES=2)
    site.derive("hub", DATASET_SOURCE="hub", DATASET="nvidia/OpenMathReasoning", DATASET_REVISION="main")
    for file in (site.root / "recipes/hub").iterdir():
        file.write_text(file.read_text().replace("GENERATE_PROBLEMS=200\n", ""))
    doctor(site, model, **env).only(name, *words)


def answers(repo: Repo, python: str) -> Path:
    """An environment whose Python is a shell script."""
    file = repo.root / "answers/bin/python"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{python}\n")
    file.chmod(0o755)
    return file.parents[1]


@pytest.mark.slow
def test_vllm_where_it_makes_the_answers(site: Repo) -> None:
    """Its image or environment, missing and there; not looked at where the recipe or the chain does without."""
    site.derive("math", EVAL_ENGINE="vllm", EVAL_TP=1)
    missing, bare = site.root / "nowhere", answers(site, 'exec /usr/bin/env python3 -S "$@"')
    doctor(site, "math", VLLM_VENV=missing).only(
        "vLLM", f"vLLM is not in {missing}", "set VLLM_VENV", "make container ENGINE=vllm"
    )
    doctor(site, "math", VLLM_VENV=bare).only("vLLM", f"{bare}/bin/python finds no vllm", "VLLM_VENV", "ENGINE=vllm")
    have = answers(site, "echo True")
    found = doctor(site, "math", VLLM_VENV=have)
    assert found.status == 0 and found.checks["vLLM"] == ("ok", f"{have}/bin/python", ""), found.text
    assert "vLLM" not in doctor(site, "math", EVAL="no", VLLM_VENV=missing).checks
    assert "vLLM" not in doctor(site, VLLM_VENV=missing).checks, "transformers answers"

    image = site.root / "engine.sqsh"
    image.touch()
    enroot = {"CONTAINER_RUNTIME": "enroot", "CONTAINER_IMAGE": image}
    doctor(site, "math", **enroot).only("vLLM", "there is no image /", "run: make container ENGINE=vllm", "=enroot")
    doctor(site, "math", **enroot, EVAL_IMAGE="/no/x.sqsh").only("vLLM", "no image /no/x.sqsh", "set EVAL_IMAGE")
    found = doctor(site, "math", **enroot, EVAL_IMAGE=image)
    assert found.status == 0 and found.checks["vLLM"][:2] == ("ok", f"enroot, {image}"), found.text
    found = doctor(site, "math", CONTAINER_RUNTIME="podman")
    assert found.checks["vLLM"][0] == "not checked" and "podman has its image on the nodes" in found.text
    for stage, status in (("train", 1), ("eval", 1), ("convert", 0), ("results", 0)):
        result = site.call("scripts/tool.sh", "doctor", "math", "1", stage, VLLM_VENV=missing)
        assert result.returncode == status, (stage, result)
        assert not status or failed(result, "vLLM: vLLM is not in ", "or DOCTOR=no")


def test_a_work_that_cannot_be_written(site: Repo, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    doctor(site, WORK=small_disk / "w").only("WORK", f"WORK={small_disk}/w is not writable", "a folder of yours")


def test_the_verdicts_are_counted(site: Repo) -> None:
    ends = {
        "1 warning, 1 fault, 1 not checked": {"PIP_USER": "1", "SBATCH_PARTITION": "off"},
        "2 faults, 1 not checked": {"VENV": "/nowhere", "SBATCH_PARTITION": "off"},
    }
    for words, env in ends.items():
        assert doctor(site, **env).text.splitlines()[-1].split(" ok, ")[1] == words


def test_a_full_quota(site: Repo) -> None:
    quota(site, 0)
    doctor(site).only("quota", "0.0 MB of", "ask for more")


def test_variables_that_are_dropped_here_are_named(site: Repo) -> None:
    env = {"PYTHONPATH": "/x", "SQUEUE_FORMAT": "%j", "SBATCH_GPUS": "9", "SLURM_NNODES": "3", "PIP_USER": "1"}
    found = doctor(site, **env)
    found.only("environment", "dropped here: ", "unset these before", verdict="warning")
    assert all(name in found.text for name in env)
    (site.root / "cluster.env").write_text("SBATCH_PARTITION=batch\nJOBS=2\nSBATCH_TIMELIMIT=1:00:00\n")
    found = doctor(site, SBATCH_PARTITION="short", SBATCH_TIMELIMIT="20", MAKE_GIVEN="SBATCH_TIMELIMIT")
    found.only("environment", "not as in cluster.env: SBATCH_PARTITION -> unset", verdict="warning")
    assert doctor(site, SBATCH_PARTITION="batch").those("warning", "fault") == []


def test_a_name_in_cluster_env_that_is_no_option(site: Repo) -> None:
    """It becomes a variable of the jobs, which may be meant; a misspelt one is named with the nearest option."""
    (site.root / "cluster.env").write_text("WORKDIR=/x\nSBATCH_PARTITION=batch\nNCCL_DEBUG=INFO\nXQZ=1\n")
    found = doctor(site)
    words = "cluster.env sets WORKDIR, XQZ, no option of this project"
    found.only("settings", words, "did you mean WORK? keep it only if", verdict="warning")
    (site.root / "cluster.env").write_text("SBATCH_PARTITION=batch\nNCCL_DEBUG=INFO\nMODE=cot\n")
    assert doctor(site).checks["settings"][1] == "cluster.env, 3 options"
    (site.root / "cluster.env").unlink()
    found = doctor(site)
    assert found.checks["settings"][1] == "no cluster.env: the defaults" and found.those("warning", "fault") == []
    assert "-> cp cluster.env.example cluster.env, then fill in account" in found.text


def test_a_slurm_that_does_not_answer_and_none_at_all(site: Repo) -> None:
    doctor(site, SLURM_CONF="/nonexistent").only("Slurm", "SLURM_CONF=/nonexistent is no file", "unset it")
    conf = site.root / "slurm.conf"
    conf.write_text(re.sub(r"(?m)^(SlurmctldPort)=.*", r"\1=9", Path(site.env["SLURM_CONF"]).read_text()))
    doctor(site, SLURM_CONF=conf).only("Slurm", "does not answer", "SLURM_CONF")
    tools = site.root / "tools"
    tools.mkdir()
    for program in ("/usr/bin", "/bin"):
        for file in Path(program).iterdir():
            if not file.name.startswith(("sbatch", "sinfo", "scontrol")) and not (tools / file.name).exists():
                (tools / file.name).symlink_to(file)
    path = f"{site.root}/bin:{Path(site.env['VENV'])}/bin:{tools}"
    doctor(site, PATH=path).only("Slurm", "no sbatch here", "LAUNCHER=local")
    assert doctor(site, PATH=path, LAUNCHER="local").status == 0


def test_gpus_that_slurm_does_not_count(repo: Repo) -> None:
    with running_slurm(nodes=1, GRES="none") as env:
        right(repo, env)
        doctor(repo, "gpu").only("GPUs", "counts no GPUs in partition batch (no GRES)", "GPUS_FLAG=none in cluster.env")
        found = doctor(repo, "gpu", GPUS_FLAG="none")
        assert found.status == 0 and found.those("not checked") == ["GPUs", "node"], found.text


# --- nodes ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_nodes_are_asked(repo: Repo, tmp_path: Path) -> None:
    """By their word WORK is shared, or not: under a mount that they do not have it looks the same, and is another."""
    with running_slurm(nodes=2) as env:
        right(repo, env)
        doctor(repo).only("WORK", "and the partition has 2 nodes", "NODE=1", verdict="warning")
        found = doctor(repo, NODE=1)
        assert found.those("fault", "not checked") == [] and set(found.those("warning")) <= {"/tmp"}, found.text
        assert found.checks["WORK"][1] == "the same on node1, node2"
        assert re.fullmatch(r"gloo all-reduce between two nodes: \d+\.\d\d GB/s", found.checks["network"][1])
        assert not repo.work.exists() and ok(repo.call("squeue", "-h")) == ""

        repo.work.mkdir()
        hidden = f"mount -t tmpfs -o nr_inodes=1m tmpfs {repo.work} && scripts/tool.sh doctor mini 1"
        result = repo.call("unshare", "--mount", "--propagation", "private", "bash", "-c", hidden, NODE=1)
        Doctor(result).only("WORK", "node[1-2] cannot see this machine's WORK", "a folder that all nodes share")

        # Ports that are shut between the nodes: the interface of each is its own.
        found = doctor(repo, NODE=1, NET_IFNAME="lo")
        assert found.those("fault") == ["network"] and "NET_IFNAME" in found.checks["network"][2], found.text


@pytest.mark.slow
def test_accounts(repo: Repo) -> None:
    """An account of another's, and a QoS that the account has not."""
    conf = "AccountingStorageEnforce=associations,qos"
    with running_slurm(nodes=1, ACCOUNTS="yes", EXTRA_CONF=conf) as env:
        right(repo, env)
        for words in ("cluster test", "account ours", "account theirs", "qos long", "user root account=ours"):
            repo.call("sacctmgr", "-i", "add", *words.split())
        doctor(repo, SBATCH_ACCOUNT="theirs").only("account", "root is not in account theirs", "one of yours (ours")
        doctor(repo, SBATCH_ACCOUNT="ours", SBATCH_QOS="long").only("QoS", "account ours has no QoS long", "normal")
        found = doctor(repo, SBATCH_ACCOUNT="ours")
        assert found.status == 0 and found.those("warning", "not checked") == ["node"], found.text


# --- before a chain is queued --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fault_stops_before_anything_is_queued(copy: Repo, one_node: dict[str, str]) -> None:
    right(copy, one_node)
    command = ("scripts/submit.sh", "train", "mini", "1")
    result = copy.call(*command, SBATCH_PARTITION="off")
    failed(
        result, "partition: partition off is down: jobs would wait; ask the site, or set SBATCH_PARTITION", "DOCTOR=no"
    )
    assert not (copy.work / "runs").exists(), "no snapshot, no chain"
    quota(copy, 0)
    result = copy.call("scripts/tool.sh", "doctor", "mini", "1", "train", SBATCH_PARTITION="off")
    failed(result, "partition off is down", "(make doctor MODEL=mini ROUND=1 shows 1 more)")
    quota(copy, 10**9)
    held = {"SBATCH_ARGS": "--hold", "JOBS": 1}
    for env in ({"SBATCH_PARTITION": "off", "DOCTOR": "no"}, {}):
        out = ok(copy.call(*command, **held, **env))
        assert [line.split("] ")[1][:11] for line in out.splitlines()] == ["queued jobs"], out
        ok(copy.call("scancel", "--me"))


@pytest.mark.slow
def test_a_chain_stays_on_its_cluster(copy: Repo, one_node: dict[str, str]) -> None:
    """Later links, and whatever else is said of the run, use the file that it was queued with."""
    right(copy, one_node)
    del copy.env["WORK"], copy.env["LAUNCHER"], copy.env["JOBS"]
    (copy.root / "clusters").mkdir()
    text = f"WORK={copy.work}\nLAUNCHER=slurm\nJOBS=1\nSBATCH_ARGS=--hold --comment="
    for name in ("here", "there"):
        (copy.root / f"clusters/{name}.env").write_text(f"{text}{name}\n")
    command = ("scripts/submit.sh", "train", "mini", "1")
    for env in ({"CLUSTER": "here"}, {}):
        out = ok(copy.call(*command, **env)).splitlines()[-1]
        first = out.split("queued jobs ")[1].split()[0]
        assert "Comment=here" in ok(copy.call("scontrol", "show", "job", first))
        assert (copy.run_dir() / "CLUSTER").read_text() == "here\n"
        [code] = (copy.run_dir() / "code").glob("*-here")
        assert (code / "clusters/here.env").is_file() and not (code / "clusters/there.env").exists()
        ok(copy.call("scancel", "--me"))
    failed(
        copy.call(*command, CLUSTER="there"), "this run was queued for CLUSTER=here", str(copy.run_dir() / "CLUSTER")
    )
