"""WORK: whether the nodes share it, and whether there is room for what make plan says is still to be written."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from sft.plan.estimate import size_text
from sft.site.check import FAULT, OK, UNCHECKED, WARNING, Check, Site, split
from sft.site.programs import ask

# File systems by the names of /proc/mounts. One that is in neither is not known to be shared.
SHARED = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "wekafs", "panfs", "pvfs2", "cifs", "smb3", "9p", "afs"}
SHARED |= {
    "fuse.ceph-fuse",
    "fuse.glusterfs",
    "fuse.beegfs",
    "fuse.quobyte",
    "fuse.juicefs",
    "virtiofs",
    "gfs2",
    "ocfs2",
}
LOCAL = {"tmpfs", "ramfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "overlay", "f2fs", "fuse.fuse-overlayfs"}
INODES = 100_000  # free; a run writes some thousands of files, and others write, too


class Mount(NamedTuple):
    source: str
    target: str
    kind: str


def mount_of(folder: Path, table: str) -> Mount:
    """The file system of an absolute folder, by the text of /proc/mounts: the innermost, and of those the last."""
    best = Mount("", "", "unknown")
    for line in table.splitlines():
        # Blanks and backslashes are octal there (man fstab).
        words = [re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), word) for word in line.split(" ")]
        if len(words) > 2 and folder.is_relative_to(words[1]) and len(words[1]) >= len(best.target):
            best = Mount(*words[:3])
    return best


def nearest(folder: Path) -> Path:
    """The folder, or the innermost one around it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def shared(site: Site, nodes: int) -> Check:
    """By the kind of file system, where no node is asked. nodes: those that jobs may run on; 0: not known."""
    there = nearest(site.work)
    if not os.access(there, os.W_OK | os.X_OK):
        return Check("WORK", FAULT, f"WORK={site.work} is not writable", "set WORK to a folder of yours with room")
    mount = mount_of(there, Path("/proc/mounts").read_text(encoding="utf-8"))
    what = f"{site.work} on {mount.kind}"
    if nodes < 2:
        return Check("WORK", OK, what)
    if mount.kind in SHARED:
        return Check("WORK", OK, f"{what}, which nodes share")
    if mount.kind in LOCAL:
        remedy = "set WORK to a folder that all nodes share, or ask one with NODE=1"
        return Check("WORK", WARNING, f"{what}, a disk of this machine, and the partition has {nodes} nodes", remedy)
    return Check("WORK", UNCHECKED, f"{what}, of which it is not known whether nodes share it", "ask one with NODE=1")


def room(site: Site, missing: float | None) -> list[Check]:
    """Free bytes and inodes. missing: bytes that are still to be written, None: not known."""
    have = os.statvfs(nearest(site.work))
    free = have.f_bavail * have.f_frsize
    what = f"{size_text(free)} free"
    if missing is not None:
        what += f", {size_text(missing)} still to be written"
    found = [Check("room", OK, what)]
    if missing is not None and missing > free:
        found = [Check("room", FAULT, what, "free some, or set WORK to a larger disk")]
    if not have.f_files:  # made as they are needed
        return [*found, Check("inodes", OK, "no fixed number")]
    if have.f_favail < INODES:
        what = f"{have.f_favail:,} files can still be made in WORK"
        return [*found, Check("inodes", WARNING, what, "remove files, or set WORK to another disk")]
    return [*found, Check("inodes", OK, f"{have.f_favail:,} free")]


# --- quotas --------------------------------------------------------------------------------------------------------


class Quota(NamedTuple):
    """Bytes and files; a limit of 0 is none."""

    used: float
    limit: float
    files: int
    file_limit: int


def read_quota(text: str, of: tuple[str, ...]) -> Quota | None:
    """The row of a file system, by one of the names in `of`, as lfs quota -q and quota -w -p print it; None: no row.

    name, KiB, soft limit, hard limit, grace, files, soft limit, hard limit, grace. An asterisk marks what is above a
    limit; lfs breaks the line after a long name. The hard limit counts, or the soft one where it is the only one: it
    becomes hard when the grace is over.
    """
    words = text.split()
    for at, word in enumerate(words):
        row = [w.strip("*[]") for w in words[at + 1 : at + 9]]
        # Its fourth and eighth words are times.
        if word in of and len(row) >= 7 and all(row[i].isdigit() for i in (0, 1, 2, 4, 5, 6)):
            used, soft, hard, files, soft_files, hard_files = (int(row[i]) for i in (0, 1, 2, 4, 5, 6))
            return Quota(used * 1024, (hard or soft) * 1024, files, hard_files or soft_files)
    return None


def rows(there: Path, of: tuple[str, ...]) -> tuple[str, list[Quota]] | None:
    """(who was asked, the user's rows and the group's); None: nobody answers. quota's status is 1 above a limit."""
    found = []
    for flag, number in (("-u", os.getuid()), ("-g", os.getgid())):
        answer = ask("lfs", "quota", "-q", flag, str(number), str(there), seconds=5)
        if answer and not answer.returncode:
            found.append(read_quota(answer.stdout, of))
    if found:
        return "lfs quota", [row for row in found if row]
    if (answer := ask("quota", "-w", "-p", "-u", "-g", seconds=5)) is None:
        return None
    parts = re.split(r"(?m)^(?=Disk quotas)", answer.stdout)
    return "quota", [row for part in parts if (row := read_quota(part, of))]


def quota(site: Site, missing: float | None) -> Check:
    """Of the user and of the group, the one that has least left."""
    there = nearest(site.work)
    mount = mount_of(there, Path("/proc/mounts").read_text(encoding="utf-8"))
    answer = rows(there, (str(there), mount.source, mount.target))
    if answer is None:
        return Check("quota", UNCHECKED, "neither lfs nor quota answers here", "ask the site how much you may write")
    what, found = answer
    byte, file = [row for row in found if row.limit], [row for row in found if row.file_limit]
    if not byte and not file:
        return Check("quota", OK, f"{what} has no limit for {mount.target}")
    full, words = False, []
    if byte:
        row = min(byte, key=lambda r: r.limit - r.used)
        left = max(0, row.limit - row.used)
        full = left < max(missing or 0, 1)
        words.append(f"{size_text(left)} of {size_text(row.limit)} left")
    if file:
        row = min(file, key=lambda r: r.file_limit - r.files)
        full = full or row.files >= row.file_limit
        words.append(f"{max(0, row.file_limit - row.files):,} of {row.file_limit:,} files left")
    if full and missing:
        words.append(f"{size_text(missing)} still to be written")
    remedy = "free some, ask for more, or set WORK to another disk" if full else ""
    return Check("quota", FAULT if full else OK, f"{what}: {', '.join(words)}", remedy)


def checks(site: Site, nodes: int) -> list[Check]:
    missing = site.plan["disk"]["missing"] if site.plan and "disk" in site.plan else None
    found = [shared(site, nodes)]
    if found[0].verdict != FAULT:
        found += [*room(site, missing), quota(site, missing)]
    if site.plan and "error" in site.plan:
        what, remedy = split(site.plan["error"])
        found.insert(1, Check("plan", UNCHECKED, what, remedy))
    return found
