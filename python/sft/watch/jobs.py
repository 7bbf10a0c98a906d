"""The jobs of a run's chain, asked of Slurm. Standard library only."""

import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from sft.site.programs import ask

LIVE = ("RUNNING", "PENDING", "CONFIGURING", "COMPLETING", "SUSPENDED")
# Not one of Slurm's states: a link that has ended as it should before the run's last step, with this exit status. To
# Slurm it has failed, so that what comes after training waits for another link.
OVER, OVER_STATUS = "OVER", 75


class Job(NamedTuple):
    """One job of a chain. reason: of a pending one why, of a running one where.

    state: Slurm's, or OVER; "" where Slurm does not know.
    """

    stage: str
    id: str
    state: str = ""
    reason: str = ""

    @property
    def live(self) -> bool:
        return self.state in LIVE


def queued(chain: Path) -> list[tuple[str, str]]:
    """(stage, id) of the jobs in chain.tsv, in their order."""
    if not chain.is_file():
        return []
    lines = chain.read_text(encoding="utf-8").splitlines()
    return [(stage, id_) for _, stage, id_ in (line.split("\t") for line in lines if line.count("\t") == 2)]


def squeue(ids: list[str], form: str) -> str | None:
    """What squeue says of these jobs, ended ones as well; None when it does not answer."""
    answer = ask("squeue", "-h", "-t", "all", "-j", ",".join(ids), "-o", form)
    if answer is None or (answer.returncode and "Invalid job id" not in answer.stderr):
        return None
    return answer.stdout


def read_states(text: str) -> dict[str, tuple[str, str]]:
    """Job -> (state, reason) of the lines id|state|reason; of anything else, like a site's banner, nothing.

    sacct gives a cancelled job as "CANCELLED by 1000"; its "reason" is an exit status, 0:0 for none. An array of jobs,
    12_0 and so on, has the state of one that runs, else of one that waits, else of one that failed.
    """
    found: dict[str, tuple[str, str]] = {}
    rank = ("RUNNING", *LIVE)
    for id_, state, reason in re.findall(r"^([0-9]+)(?:_[^|\n]*)?\|([A-Z_]+)[^|\n]*\|(.*)$", text, re.MULTILINE):
        old = found.get(id_)
        if old is None or standing(state, rank) < standing(old[0], rank):
            found[id_] = (state, reason)
    return found


def standing(state: str, rank: tuple[str, ...]) -> int:
    if state in rank:
        return rank.index(state)
    return len(rank) + (state == "COMPLETED")


def links_over(ids: list[str]) -> set[str]:
    """Those of failed links that are over as they should be. squeue has exit statuses as wait does, times 256."""
    answer = ask("squeue", "-h", "-t", "all", "-j", ",".join(ids), "-O", "JobID:24,exit_code:12") if ids else None
    rows = re.findall(r"^([0-9]+) +([0-9]+)\s*$", answer.stdout if answer else "", re.MULTILINE)
    return {id_ for id_, status in rows if int(status) == OVER_STATUS << 8}


def ids_in_words(ids: list[str]) -> str:
    """5-8 of three or more in a row; job numbers as in chain.tsv."""
    found: list[list[str]] = []
    for id_ in ids:
        if found and int(id_) == int(found[-1][-1]) + 1:
            found[-1].append(id_)
        else:
            found.append([id_])
    return " ".join(f"{row[0]}-{row[-1]}" if len(row) > 2 else " ".join(row) for row in found)


def in_a_cell(jobs: list[Job]) -> str:
    """Jobs of a stage, those beside each other together that are in the same state for the same reason."""
    groups: list[tuple[str, list[str]]] = []
    for job in jobs:
        why = job.reason.strip("()").split(",")[0] if job.state == "PENDING" else job.reason if job.live else ""
        words = f"{job.state.lower()}{f' ({why})' if why else ''}"
        if groups and groups[-1][0] == words:
            groups[-1][1].append(job.id)
        else:
            groups.append((words, [job.id]))
    return ", ".join(f"{ids_in_words(ids)} {words}".strip() for words, ids in groups)


def read_jobs(chain: Path) -> tuple[list[Job], str]:
    """(the chain's jobs in the order they were queued, note on what could not be asked)."""
    ids = queued(chain)
    states: dict[str, tuple[str, str]] = {}
    note = ""
    if ids and not shutil.which("squeue"):
        note = "no squeue here: states are from the files alone"
    elif ids:
        answer = squeue([id_ for _, id_ in ids], "%i|%T|%R")
        if answer is None:
            note = "Slurm does not answer: states are from the files alone"
        else:
            states = read_states(answer)
    # Slurm forgets a job some minutes after its end; its accounts, where a site keeps some, do not.
    forgotten = [id_ for _, id_ in ids if id_ not in states]
    if forgotten and not note and shutil.which("sacct"):
        told = ask("sacct", "-n", "-X", "-P", "-j", ",".join(forgotten), "-o", "JobID,State,ExitCode")
        if told and not told.returncode:
            ended = {id_: pair for id_, pair in read_states(told.stdout).items() if pair[0] not in LIVE}
            # One that seems live was lost with its node.
            states |= {id_: ended[id_] for id_ in forgotten if id_ in ended}
    failed = [id_ for stage, id_ in ids if stage == "train" and states.get(id_, ("", ""))[0] == "FAILED"]
    over = {id_ for id_ in failed if states[id_][1] == f"{OVER_STATUS}:0"}  # as sacct has it
    over |= links_over([id_ for id_ in failed if ":" not in states[id_][1]])
    states |= dict.fromkeys(over, (OVER, ""))
    return [Job(stage, id_, *states.get(id_, ("", ""))) for stage, id_ in ids], note


def own_jobs(run: Path, work: str, model: str, round_: str) -> tuple[list[Job], list[str]] | None:
    """(the chain's live jobs, ids that now belong to somebody else); None when Slurm does not answer.

    A job is this chain's by its user, its name and its script, which is the run's own copy: Slurm counts from one again
    when it has lost its state, or has given all of its numbers. work: as the user writes it, maybe through a link.
    """
    ids = queued(run / "chain.tsv")
    if not ids:
        return [], []
    text = squeue([id_ for _, id_ in ids], "%F|%T|%r|%U|%j|%o")  # of an array its own number
    if text is None:
        return None
    stages = {id_: stage for stage, id_ in ids}
    scripts = tuple(f"{root}/runs/{model}/round{round_}/code/" for root in {Path(work).absolute(), run.parents[2]})
    own: list[Job] = []
    others = []
    for line in dict.fromkeys(text.splitlines()):
        fields = line.split("|", 5)
        if len(fields) != 6 or fields[0] not in stages or fields[1] not in LIVE:
            continue
        id_, state, reason, user, name, script = fields
        called = re.fullmatch(rf"{stages[id_]}-{re.escape(model)}-{re.escape(round_)}(-[a-z0-9]+)?", name)
        if called and user == str(os.getuid()) and script.startswith(scripts):
            if id_ not in {job.id for job in own}:
                own.append(Job(stages[id_], id_, state, reason))
        else:
            others.append(id_)
    return sorted(own, key=lambda job: [id_ for _, id_ in ids].index(job.id)), others  # squeue has an order of its own
