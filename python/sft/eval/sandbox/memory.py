"""The processes of a jail as they are seen from outside, and the memory that they hold together.

Limits of a process (setrlimit) do not bound a tree of them: 40 processes of 1 GB each pass. A cgroup would, but is a
user's to make on few machines. So whoever waits for an answer looks at /proc meanwhile.
"""

import os
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
PAGE = os.sysconf("SC_PAGE_SIZE")
INODE = 1024  # bytes of kernel memory that an empty file of a tmpfs takes, about


def parents() -> dict[int, list[int]]:
    """Parent -> children of all processes of the machine."""
    found: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found.setdefault(parent, []).append(int(entry.name))
    return found


def children(pid: int) -> list[int]:
    """Raises FileNotFoundError where the kernel was built without CONFIG_PROC_CHILDREN, or the process has gone."""
    found = []
    for task in (PROC / str(pid) / "task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def tree(pid: int) -> list[int]:
    """A process and all below it, each after its parent."""
    known = None if (PROC / f"self/task/{os.getpid()}/children").exists() else parents()
    found = [pid]
    for one in found:  # grows meanwhile
        with suppress(OSError):  # it has gone
            found += children(one) if known is None else known.get(one, [])
    return found


def ended(pid: int) -> bool:
    """Whether a process is over, or a zombie, which holds nothing but its number."""
    with suppress(OSError):
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return True


def held(pids: list[int], limit: int) -> int:
    """Bytes that the processes and the files of their /tmp and /dev/shm hold.

    Pages that several share are counted for each, as that takes little time, unless the sum is above `limit`: then they
    are shared out.
    """
    total = sum(resident(pid) for pid in pids)
    if total > limit:
        total = sum(proportional(pid) for pid in pids)
    return total + files(pids[-1])


def resident(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int((PROC / str(pid) / "statm").read_text().split()[1]) * PAGE
    return 0


def proportional(pid: int) -> int:
    with suppress(OSError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return resident(pid)


def files(pid: int) -> int:
    """What the file systems in memory hold that a process of the jail sees; empty files count, too."""
    total = 0
    for name in ("tmp", "dev/shm"):
        with suppress(OSError):  # gone, or not ours to look at
            used = os.statvfs(PROC / str(pid) / "root" / name)
            if used.f_blocks and used.f_blocks * used.f_frsize <= 2**30:  # a jail's own, not the host's
                total += (used.f_blocks - used.f_bfree) * used.f_frsize + (used.f_files - used.f_ffree) * INODE
    return total
