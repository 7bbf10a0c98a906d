"""Slurm's reasons for a pending job, in words and with what can be done.

The codes are those of Slurm's squeue manual, "JOB REASON CODES". Those of limits are made by a rule: Assoc or QOS, Max
or Grp, what is counted, and per what.
"""

import re

WORDS = {
    "None": "it was queued just now",
    "Priority": "jobs of higher priority are ahead of it",
    "Resources": "it is next, and waits for nodes to become free",
    "Dependency": "it waits for the job before it",
    "DependencyNeverSatisfied": "what it waits for has failed: it will never start; run make cancel, then make train",
    "BeginTime": "its time has not come yet; Slurm delays a job that it has requeued",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved, maybe for maintenance: see sinfo -R",
    "Reservation": "its reservation has not begun, or is full",
    "Licenses": "it waits for a licence",
    "Cleaning": "its last try is still being cleaned up",
    "NodeDown": "a node that it needs is down",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition takes no jobs now",
    "PartitionNodeLimit": "it asks for more nodes than its partition gives; choose another SBATCH_PARTITION",
    "PartitionTimeLimit": "it asks for more time than its partition gives; lower SBATCH_TIMELIMIT",
    "BadConstraints": "no node has what it asks for; see SBATCH_CONSTRAINT and GPUS_FLAG",
    "InvalidAccount": "its account is not valid; see SBATCH_ACCOUNT",
    "InvalidQOS": "its QOS is not valid; see SBATCH_QOS",
    "JobHeldUser": "it is held by its user; release it with scontrol release",
    "JobHeldAdmin": "it is held by an administrator",
    "launch failed requeued held": "it could not be started on its nodes and is held; see scontrol show job",
}
OWNERS = {"Assoc": "the account", "QOS": "the QOS"}
COUNTED = {
    "GRES": "GPUs", "Cpu": "CPUs", "CPU": "CPUs", "Mem": "memory", "Node": "nodes", "Job": "jobs", "Submit": "jobs",
    "Wall": "time", "Billing": "billing", "Energy": "energy", "BB": "burst buffer", "License": "licences",
}  # fmt: skip
PER = {
    "PerUser": "that a user may have", "PerAccount": "that an account may have", "PerJob": "that a job may have",
    "PerNode": "of a node that a job may have",
}  # fmt: skip
LIMIT = re.compile(r"(Assoc|QOS)(Max|Grp|Min)([A-Za-z]+)")


def in_words(reason: str) -> str:
    """What squeue's %R or %r means for the user; the code itself where it is not known here."""
    code = reason.strip().strip("()").split(",")[0]
    if code in WORDS:
        return WORDS[code]
    if match := LIMIT.match(code):
        owner, kind, rest = match.groups()
        what = next((word for key, word in COUNTED.items() if rest.startswith(key)), "resources")
        per = next((word for key, word in PER.items() if key in rest), "")
        if kind == "Min":
            return f"it asks for less {what} than {OWNERS[owner]} demands"
        if per == PER["PerJob"] or (kind == "Max" and "Wall" in rest):
            return f"it asks for more {what} than {OWNERS[owner]} gives a job, so it will never start"
        used = f"all {what} {per}" if per else f"all {what}"
        return f"{used} by {OWNERS[owner]} are in use; it starts when others of them end".replace("  ", " ")
    return code
