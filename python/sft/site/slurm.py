"""What Slurm has, against what the jobs will ask for: partition, nodes, GPUs, account, QoS, time limit.

Everything is read with sinfo, scontrol and sacctmgr. At the end sbatch itself is asked, with --test-only: that queues
nothing.
"""

import math
import os
import pwd
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from sft.lib.errors import Failure
from sft.lib.progress import many
from sft.plan.estimate import time_limit
from sft.site.check import FAULT, OK, UNCHECKED, WARNING, Check, Site, split
from sft.site.programs import ask, fields, lines, said, sbatch

LEAST = (20, 11)  # srun --overlap, which scripts/slurm.sh gives to every step (Slurm's NEWS)
GONE = {
    "down",
    "drain",
    "drng",
    "fail",
    "failg",
    "inval",
    "unk",
    "err",
}  # sinfo's states without jobs


class Node(NamedTuple):
    """gres: as sinfo prints it, like gpu:h100:8(S:0-1),nvme:1. up: whether it takes jobs."""

    name: str
    up: bool
    gres: str

    def gpus(self, kind: str = "") -> int:
        """Those that Slurm counts, of one type where `kind` names it."""
        found = re.findall(r"(?:^|,)gpu:(?:([A-Za-z][\w.-]*):)?(\d+)", self.gres)
        return sum(int(count) for type_, count in found if not kind or type_ == kind)


def option(name: str) -> str:
    return os.environ.get(f"SBATCH_{name}", "")


# --- partition, nodes, GPUs ----------------------------------------------------------------------------------------


def partitions() -> dict[str, dict[str, str]] | None:
    """Name -> its fields, as scontrol has them; None where Slurm does not answer."""
    rows = lines(ask("scontrol", "-a", "-o", "show", "partition"))
    return None if rows is None else {p["PartitionName"]: p for p in map(fields, rows) if "PartitionName" in p}


def partition(name: str, known: dict[str, dict[str, str]], variable: str) -> tuple[Check, dict[str, str] | None]:
    """The check of a partition, and its fields where jobs can be queued in it.

    name: several may stand in it, with commas, of which Slurm takes the first that has room; empty: the default.
    """
    names = name.split(",") if name else [n for n, p in known.items() if p.get("Default") == "YES"]
    choice = ", ".join(sorted(n for n, p in known.items() if p.get("State") == "UP")) or "none is up"
    remedy = f"set {variable} to one that is up ({choice})"
    if not names:
        return Check("partition", FAULT, "Slurm has no default partition", remedy), None
    if unknown := [n for n in names if n not in known]:
        return Check("partition", FAULT, f"there is no partition {unknown[0]}", remedy), None
    up = [n for n in names if known[n].get("State") == "UP"]
    if not up:
        state = known[names[0]].get("State", "?").lower()
        return Check(
            "partition", FAULT, f"partition {names[0]} is {state}: jobs would wait", f"ask the site, or {remedy}"
        ), None
    found = f"{up[0]}, {many(int(known[up[0]].get('TotalNodes', 0)), 'node')}"
    return Check("partition", OK, found if name else f"{found}, the default"), known[up[0]]


def nodes_of(name: str) -> list[Node]:
    """Of a partition."""
    rows = lines(ask("sinfo", "-h", "-N", "-p", name, "-o", "%N|%t|%G")) or []
    found = (row.strip().split("|") for row in rows if row.count("|") == 2)
    return [Node(n, not s.endswith("*") and s.rstrip("*~#!%$@^+-") not in GONE, g) for n, s, g in found]


def enough(site: Site, name: str, nodes: list[Node]) -> list[Check]:
    """As many nodes as a job takes, each with as many GPUs as the recipe wants."""
    up, want = [node for node in nodes if node.up], site.nodes
    if len(nodes) < want:
        remedy = f"set SBATCH_PARTITION to a larger one, or see make plan {site.again} NODES={max(len(nodes), 1)}"
        found = [
            Check("nodes", FAULT, f"partition {name} has {many(len(nodes), 'node')}, the recipe wants {want:,}", remedy)
        ]
    elif len(up) < want:
        what = f"{len(up):,} of {many(len(nodes), 'node')} can take jobs, the recipe wants {want:,}"
        found = [Check("nodes", WARNING, what, "wait, or ask the site; sinfo -R says why nodes are down")]
    else:
        found = [Check("nodes", OK, f"{len(up):,} of {len(nodes):,} can take jobs, {want:,} wanted")]
    if not site.gpus:
        return [*found, Check("GPUs", OK, "none wanted")]
    return [*found, gpus(site, name, nodes)]


def gpus(site: Site, name: str, nodes: list[Node]) -> Check:
    form, _, kind = site.gpus_flag.partition(":")
    counts = [node.gpus(kind) for node in nodes]
    have = sum(count >= site.gpus for count in counts)
    kind = f"{kind} " * bool(kind)
    if form == "none":
        return Check(
            "GPUs", UNCHECKED, "GPUS_FLAG=none: Slurm is not asked for any", "see that the nodes have them: NODE=1"
        )
    if not any(node.gpus() for node in nodes):
        remedy = f"set GPUS_FLAG=none in {site.cluster_file} if its nodes have GPUs, else another SBATCH_PARTITION"
        return Check("GPUs", FAULT, f"Slurm counts no GPUs in partition {name} (no GRES)", remedy)
    if have < min(site.nodes, len(nodes)):
        wanted, most = (many(count, f"{kind}GPU") for count in (site.gpus, max(counts)))
        what = f"partition {name} has {many(have, 'node')} with {wanted}; a node has {most} at most"
        remedy = "set SBATCH_PARTITION or GPUS_FLAG, or copy the recipe with other GPUS_PER_NODE"
        return Check("GPUs", FAULT, what, remedy)
    return Check("GPUs", OK, f"{max(counts)} {kind}in a node, {site.gpus} wanted")


# --- account and QoS -----------------------------------------------------------------------------------------------


def accounts(part: dict[str, str] | None) -> list[Check]:
    """SBATCH_ACCOUNT and SBATCH_QOS against what the accounts let this user have; part: the partition's fields."""
    account, qos = option("ACCOUNT"), option("QOS")
    config = dict(re.findall(r"^(\w+)\s*= (.*)$", "\n".join(lines(ask("scontrol", "show", "config")) or []), re.M))
    if "slurmdbd" not in config.get("AccountingStorageType", ""):
        return [Check("account", OK, "Slurm keeps no accounts"), Check("QoS", OK, "Slurm keeps none")]
    user = pwd.getpwuid(os.getuid()).pw_name
    cluster = f"cluster={config.get('ClusterName', '')}"
    rows = lines(ask("sacctmgr", "-nP", "show", "assoc", f"user={user}", cluster, "format=Account,Partition,QOS"))
    if rows is None:
        what = "sacctmgr does not answer here"
        return [Check(name, UNCHECKED, what, "run: sacctmgr show assoc, where it does") for name in ("account", "QoS")]
    found = [row.split("|") for row in rows if row.count("|") == 2]
    mine = sorted({row[0] for row in found})
    enforced = re.search(r"associations|limits|qos|safe|wckeys", config.get("AccountingStorageEnforce", ""))
    bad = FAULT if enforced else WARNING
    named = f"set SBATCH_ACCOUNT to one of yours ({', '.join(mine) or 'none: ask the site'})"
    allowed = (part or {}).get("AllowAccounts", "ALL").lower().split(",")
    if account and account.lower() not in mine:
        first = Check("account", bad, f"{user} is not in account {account}", named)
    elif not mine:
        first = Check("account", bad, f"{user} is in no account", "ask the site for one, and set SBATCH_ACCOUNT")
    elif account and allowed != ["all"] and account.lower() not in allowed:
        remedy = f"set SBATCH_ACCOUNT to one of {', '.join(allowed)}, or another SBATCH_PARTITION"
        first = Check(
            "account", FAULT, f"account {account} may not use partition {(part or {})['PartitionName']}", remedy
        )
    else:
        first = Check("account", OK, account or f"your default, of {', '.join(mine)}")
    have = {q for row in found if not account or row[0] == account.lower() for q in row[2].split(",") if q}
    if not qos:
        return [first, Check("QoS", OK, "your default")]
    if first.verdict == OK and qos.lower() not in have:
        remedy = f"set SBATCH_QOS to one of {', '.join(sorted(have)) or 'none'}, or leave it out"
        return [first, Check("QoS", bad, f"account {account or 'of yours'} has no QoS {qos}", remedy)]
    only = (part or {}).get("AllowQos", "ALL").lower().split(",")
    if only != ["all"] and qos.lower() not in only:
        remedy = f"set SBATCH_QOS to one of {', '.join(only)}, or another SBATCH_PARTITION"
        return [
            first,
            Check("QoS", FAULT, f"partition {(part or {})['PartitionName']} does not take QoS {qos}", remedy),
        ]
    return [first, Check("QoS", OK, qos)]


# --- time ----------------------------------------------------------------------------------------------------------


def seconds(text: str) -> float | None:
    """Of a time limit as Slurm prints it, inf for none; None: it says nothing."""
    if not text or text.upper() in ("NONE", "N/A"):
        return None
    try:
        return time_limit(text)
    except Failure:
        return None


def limit_of(part: dict[str, str] | None) -> str:
    """The time limit that a job will have: SBATCH_TIMELIMIT, or else the partition's."""
    part = part or {}
    default = part.get("DefaultTime", "NONE")
    return option("TIMELIMIT") or (part.get("MaxTime", "") if default.upper() in ("NONE", "") else default)


def limit(site: Site, part: dict[str, str] | None) -> Check:
    text = limit_of(part)
    try:
        given = time_limit(text) if text else math.inf
    except Failure as failure:
        return Check("time limit", FAULT, *split(str(failure)))
    text = f"SBATCH_TIMELIMIT={text}" if option("TIMELIMIT") else f"{text}, the partition's"
    bounds = {f"partition {(part or {}).get('PartitionName')}": seconds((part or {}).get("MaxTime", ""))}
    if qos := option("QOS"):
        wall = (lines(ask("sacctmgr", "-nP", "show", "qos", qos, "format=MaxWall")) or [""])[:1]
        bounds[f"QoS {qos}"] = seconds(wall[0] if wall else "")
    for who, most in bounds.items():
        if most is not None and given > most:
            remedy = f"set SBATCH_TIMELIMIT to {span(most)} or less, or take another"
            return Check("time limit", FAULT, f"{text} is more than the {span(most)} of {who}", remedy)
    for warning in (site.plan or {}).get("warnings", []):
        if site.stage == "train" and warning.startswith("time: "):
            what, _ = split(warning.removeprefix("time: "))
            remedy = "raise SBATCH_TIMELIMIT, or correct BRING_UP, MFU and GPU where they are wrong"
            return Check("time limit", FAULT, f"{text} is too short: {what}", remedy)
    reserve = int(os.environ.get("SAVE_RESERVE") or 0)
    if site.stage == "train" and given <= reserve:
        what = f"{text} is no longer than SAVE_RESERVE={reserve}: one step a link"
        return Check("time limit", WARNING, what, "raise SBATCH_TIMELIMIT, or lower SAVE_RESERVE")
    return Check("time limit", OK, text if given < math.inf else "no limit")


def span(count: float) -> str:
    days, rest = divmod(int(count), 86400)
    return f"{days}-" * bool(days) + f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"


# --- all -----------------------------------------------------------------------------------------------------------


def answers(launcher: str) -> tuple[Check, bool]:
    """Whether there is a Slurm to ask."""
    if launcher != "slurm":
        remedy = "say LAUNCHER=slurm to look at this one" if shutil.which("sbatch") else ""
        return Check("Slurm", UNCHECKED, f"LAUNCHER={launcher} does without it", remedy), False
    if not shutil.which("sbatch"):
        return Check("Slurm", FAULT, "no sbatch here", "log in to a node of the cluster, or LAUNCHER=local"), False
    conf = os.environ.get("SLURM_CONF")
    if conf and not Path(conf).is_file():  # Slurm's programs would look for it for a minute
        return Check(
            "Slurm", FAULT, f"SLURM_CONF={conf} is no file", "unset it, or name the cluster's slurm.conf"
        ), False
    pinged = ask("scontrol", "ping", seconds=10)
    if lines(pinged) is None:
        return Check(
            "Slurm", FAULT, f"Slurm does not answer ({said(pinged)})", "try again later, or see SLURM_CONF"
        ), False
    first = [line for line in lines(ask("sbatch", "--version")) or [] if line.lower().startswith("slurm")]
    version = first[0] if first else "an unknown version"
    number = re.search(r"(\d+)\.(\d+)", version)
    if number and (int(number[1]), int(number[2])) < LEAST:
        return Check(
            "Slurm", FAULT, f"{version} is older than 20.11", "srun --overlap is needed; ask for another"
        ), False
    return Check("Slurm", OK, version), True


def trial(site: Site) -> Check:
    """What sbatch itself says of a job like those to come: it also knows what nobody else was asked."""
    answer = sbatch("--test-only", *site.options, "--wrap=true")
    if answer is None:
        return Check("sbatch", UNCHECKED, "sbatch --test-only does not answer", "try again later")
    if answer.returncode:
        busy = "not available" in said(answer) and "configuration" not in said(answer)
        remedy = f"fix SBATCH_* and SBATCH_ARGS in {site.cluster_file}, or the recipe"
        return Check("sbatch", WARNING if busy else FAULT, f"sbatch would refuse the job: {said(answer)}", remedy)
    return Check("sbatch", OK, "would take the job")


def checks(
    site: Site, known: dict[str, dict[str, str]], part: dict[str, str] | None, nodes: list[Node], check: Check
) -> list[Check]:
    """check: of the partition, whose fields are `part` where jobs can be queued in it, and whose nodes are `nodes`."""
    found = [check]
    if part is not None:
        found += enough(site, part["PartitionName"], nodes)
    other = os.environ.get("CPU_PARTITION")
    if other and site.stage == "train":
        found.append(partition(other, known, "CPU_PARTITION")[0]._replace(name="CPU_PARTITION"))
    found += [*accounts(part), limit(site, part)]
    if all(one.verdict != FAULT for one in found):
        found.append(trial(site))
    return found
