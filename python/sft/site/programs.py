"""Programs of the site, asked so that the user's own variables change nothing in the answer."""

import os
import re
import subprocess

from sft.lib.files import ROOT

KEPT = "SLURM_(CONF|CONF_SERVER|CLUSTERS|WORKING_CLUSTER|JWT|SACK_[A-Z_]*)"  # which Slurm it is: as in scripts/slurm.sh
Answer = subprocess.CompletedProcess[str]


def ask(*command: str, seconds: float = 20, **env: str) -> Answer | None:
    """The answer of a program, asked without the variables that give Slurm's own filters and formats, and with `env`.

    None when there is no such program, or no answer in time.
    """
    slurm = ("SLURM_", "SQUEUE_", "SACCT_", "SINFO_", "SCONTROL_", "SACCTMGR_", "SCANCEL_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(slurm) or re.fullmatch(KEPT, k)}
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=kept | env,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def sbatch(*options: str, seconds: float = 30) -> Answer | None:
    """sbatch as submit.sh calls it: scripts/slurm.sh says which of its variables count."""
    call = '. "$0/scripts/lib.sh"; slurm sbatch "$@"'
    try:
        return subprocess.run(
            ["bash", "-c", call, str(ROOT), *options],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def lines(answer: Answer | None) -> list[str] | None:
    """The lines of a good answer, else None."""
    return None if answer is None or answer.returncode else answer.stdout.splitlines()


def fields(text: str) -> dict[str, str]:
    """Key=Value words, as scontrol -o prints them."""
    return dict(re.findall(r"(?:^|\s)([A-Za-z][\w:/]*)=(\S*)", text))


def said(answer: Answer | None) -> str:
    """Why a program failed, in one line: its first error, or else its last line."""
    if answer is None:
        return "no answer"
    found = [line.strip() for line in (answer.stderr + "\n" + answer.stdout).splitlines() if line.strip()]
    errors = [re.sub(r"^\w+: (error|fatal): ", "", line) for line in found if re.match(r"^\w+: (error|fatal): ", line)]
    return ([*errors, *found[-1:]] or [f"status {answer.returncode}"])[0][:200]
