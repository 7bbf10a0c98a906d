"""NODE=1: what only a node can tell, by a job of sbatch/doctor.sbatch: WORK, srun, /tmp, clocks, container, network."""

import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from sft.lib.files import ROOT
from sft.lib.progress import many
from sft.plan.estimate import size_text
from sft.site.check import FAULT, OK, UNCHECKED, WARNING, Check, Site
from sft.site.programs import ask, fields, said, sbatch

WAIT = 600  # seconds for the job to start and end
SEEN = 30  # seconds in which a file of a node's must be visible here: NFS looks at a folder anew that often (man nfs)
SKEW = 5  # seconds: a link counts its time limit by its node's clock, Slurm by its own
ROOM = 10e9  # bytes in /tmp: Ray, torch and the containers unpack there. An assumption
LIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")


def job(site: Site, folder: Path, nodes: int) -> dict[str, str] | Check:
    """The fields of the finished job, as scontrol has them; or the check that it ends with."""
    own = [f"--nodes={nodes}", "--time=5", "--job-name=doctor", "--output=/dev/null", "--parsable", "--export=ALL"]
    others = [option for option in site.options if not option.startswith("--nodes=")]
    model, round_ = site.again.replace("MODEL=", "").replace("ROUND=", "").split() or ("", "")
    answer = sbatch(*others, *own, str(ROOT / "sbatch/doctor.sbatch"), model, round_, str(folder))
    number = re.search(r"^(\d+)(;\S+)?$", answer.stdout, re.MULTILINE) if answer else None
    if not number:
        return Check(
            "node",
            FAULT,
            f"sbatch refused a job of {many(nodes, 'node')} ({said(answer)})",
            "fix SBATCH_* and SBATCH_ARGS",
        )
    id_, deadline, told = number[1], time.time() + WAIT, ""
    found = {"JobState": "PENDING"}
    try:
        while found.get("JobState") in LIVE and time.time() < deadline:
            found = fields(shown.stdout if (shown := ask("scontrol", "-o", "show", "job", id_)) else "") or found
            if found["JobState"] != told:
                told = found["JobState"]
                print(f"doctor: job {id_} is {told.lower()}", file=sys.stderr)
            time.sleep(0.5)
    finally:
        if found.get("JobState") in LIVE:
            ask("scancel", id_)
    if found.get("JobState") in LIVE:
        what = f"job {id_} was still {told.lower()} after {WAIT} s ({found.get('Reason', '?')}), and is cancelled"
        return Check("node", UNCHECKED, what, "try again when nodes are free")
    return found


def read(file: Path) -> str:
    """The text of what a node has written; empty when there is nothing in time."""
    deadline = time.time() + SEEN
    while not file.is_file() and time.time() < deadline:
        list(file.parent.iterdir())  # which makes a network's file system look
        time.sleep(0.5)
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def reason(text: str) -> str:
    """The last line that says why: Slurm's own only tell that something ended."""
    found = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in found if not line.startswith(("srun: ", "slurmstepd: "))]
    return ([*found, *own] or ["it printed nothing"])[-1][:200]


def facts(text: str, begun: float, ended: float, nodes: int) -> list[Check]:
    """WORK, srun, clocks and /tmp, of the lines name|seconds since the epoch|WORK is here|KiB free in /tmp."""
    rows = sorted(re.findall(r"^([\w.-]+)\|([\d.]+)\|(yes|no)\|(\d*)$", text, re.MULTILINE))
    if len({row[0] for row in rows}) < nodes:
        last = (text.strip() or "it printed nothing").splitlines()[-1][:200]
        remedy = "see that srun works in a job: salloc, then srun hostname"
        return [Check("srun", FAULT, f"srun reached {len(rows)} of {many(nodes, 'node')} ({last})", remedy)]
    names = ", ".join(row[0] for row in rows)
    found = [Check("srun", OK, f"reached {names}")]
    if blind := [row[0] for row in rows if row[2] == "no"]:
        return [*found, blind_check(", ".join(blind))]
    found.append(Check("WORK", OK, f"the same on {names}"))
    times = [float(row[1]) for row in rows]
    skew = max(max(times) - min(times), begun - min(times), max(times) - ended)
    what = f"{max(skew, 0):.1f} s at most between nodes, or with this machine"
    found.append(
        Check("clocks", WARNING if skew > SKEW else OK, what, "ask the site for chrony or ntp" if skew > SKEW else "")
    )
    free = min(int(row[3] or 0) * 1024 for row in rows)
    what, little = f"{size_text(free)} free in /tmp of a node, at least", free < ROOM
    remedy = "clear it, or set TMPDIR and RAY_TMPDIR to a larger local disk" if little else ""
    return [*found, Check("/tmp", WARNING if little else OK, what, remedy)]


def blind_check(names: str) -> Check:
    return Check("WORK", FAULT, f"{names} cannot see this machine's WORK", "set WORK to a folder that all nodes share")


def network(text: str, nodes: int) -> list[Check]:
    """Of what scripts/bandwidth.py has printed, in the container where there is one."""
    runtime = os.environ.get("CONTAINER_RUNTIME") or "none"
    name = "torch" if runtime == "none" else "container"
    last = reason(text)
    started = re.findall(r"^torch (\S+) (\w+) rank (\d+)", text, re.MULTILINE)
    if len(started) < nodes:
        remedy = "set up again where the nodes see it" if runtime == "none" else "see make container"
        return [Check(name, FAULT, f"torch started on {len(started)} of {many(nodes, 'node')} ({last})", remedy)]
    version, backend, _ = started[0]
    found = [
        Check(name, OK, f"torch {version} on {many(nodes, 'node')}" + (f", by {runtime}" if runtime != "none" else ""))
    ]
    if nodes == 1:
        return [*found, Check("network", UNCHECKED, "there is but one node")]
    rate = re.search(r"^bandwidth ([\d.]+) GB/s", text, re.MULTILINE)
    if not rate:
        remedy = "set NET_IFNAME to the interface between nodes (ip -br addr), or ask the site about firewalls"
        return [*found, Check("network", FAULT, f"{backend} found no way between two nodes ({last})", remedy)]
    return [*found, Check("network", OK, f"{backend} all-reduce between two nodes: {rate[1]} GB/s")]


def checks(site: Site, nodes: int) -> list[Check]:
    new = not site.work.exists()
    site.work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir=site.work))
    try:
        (folder / "here").touch()
        begun = time.time()
        done = job(site, folder, nodes)
        if isinstance(done, Check):
            return [done]
        host, code = done.get("NodeList", "the node"), done.get("ExitCode", "")
        if code.startswith("77:"):
            return [blind_check(host)]
        if code.startswith("76:"):
            return [Check("node", FAULT, f"{host} cannot see {ROOT}", "put the code where all nodes see it")]
        ended = time.time()
        text = read(folder / "nodes")
        if not text:
            what = f"the job on {host} ended as {done.get('JobState')} ({code}) and left nothing in WORK"
            return [Check("node", FAULT, what, "see slurmd's log there, and whether WORK can be written on nodes")]
        found = facts(text, begun, ended, nodes)
        if all(check.verdict != FAULT for check in found):
            found += network(read(folder / "engine"), nodes)
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if new:
            site.work.rmdir()


def merged(found: list[Check], asked: list[Check]) -> list[Check]:
    """Those of the node in place of what was only supposed here."""
    names = {check.name for check in asked}
    return [*(check for check in found if check.name not in names), *asked]
