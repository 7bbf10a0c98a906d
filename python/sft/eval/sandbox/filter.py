"""The seccomp program of the sandbox: which system calls the model's code cannot make.

Namespaces, mounts, tracing, io_uring, BPF, keys, modules and clocks: EPERM. clone3 is not there (ENOSYS): its flags lie
in memory, where a filter cannot look, and glibc then takes clone. Sockets are of families UNIX, INET and INET6 only:
vsock has no namespace, it reaches the host of a virtual machine. memfd_create goes, too: what it holds is memory of no
process and of no bounded file system. prctl does not undo the signal that ends a jail with whoever started it. Calls
newer than LAST do not exist.

Written out here, for libseccomp and its Python binding need not be on a node. Numbers: Linux 6.12
arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

import platform
import struct

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # place in DENIED, AUDIT_ARCH_* of audit.h
X32 = 0x40000000  # x86_64 only: the same calls by other numbers
LAST = 462
# Name -> number on x86_64 and on aarch64; None where the architecture has it not.
DENIED: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
# What has a rule of its own.
CLONE, CLONE3, SOCKET, PRCTL = (56, 220), 435, (41, 198), (157, 167)
PR_SET_PDEATHSIG = 1  # prctl.h
# Where nothing else keeps a process from the host's: it opens no socket, and signals by thread only (as abort does).
SIGNALS = {"kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "pidfd_send_signal": (424, 424)}
NAMESPACES = 0x7E020000  # CLONE_NEW* of sched.h
FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
EPERM, EACCES, ENOSYS, EAFNOSUPPORT = 1, 13, 38, 97
ALLOW, KILL = 0x7FFF0000, 0x80000000  # SECCOMP_RET_* of seccomp.h
LOAD, EQUAL, ABOVE, FROM, BITS, RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06  # BPF_LD.., BPF_JMP.. of bpf_common.h
NUMBER, ARCHITECTURE, FIRST = 0, 4, 16  # struct seccomp_data: nr, arch, the low half of args[0]


def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """A struct sock_filter; yes, no: instructions to leave out after a comparison."""
    return struct.pack("=HBBI", code, yes, no, value)


def error(number: int) -> bytes:
    return step(RETURN, 0x00050000 | number)  # SECCOMP_RET_ERRNO


def program(machine: str = "", alone: bool = True) -> bytes:
    """The filter as an array of struct sock_filter; alone: in namespaces of its own, else what they would keep from it.

    Raises KeyError for an architecture that is not known here.
    """
    place, architecture = ARCHITECTURES[machine or platform.machine()]
    denied = DENIED if alone else DENIED | SIGNALS
    steps = [step(LOAD, ARCHITECTURE), step(EQUAL, architecture, yes=1), step(RETURN, KILL), step(LOAD, NUMBER)]
    steps += [step(FROM, X32, no=1), error(EPERM)]
    steps += [step(ABOVE, LAST, no=1), error(ENOSYS)]
    for numbers in denied.values():
        if (number := numbers[place]) is not None:
            steps += [step(EQUAL, number, no=1), error(EPERM)]
    steps += [step(EQUAL, CLONE3, no=1), error(ENOSYS)]
    steps += [step(EQUAL, CLONE[place], no=4), step(LOAD, FIRST), step(BITS, NAMESPACES, no=1), error(EPERM)]
    steps += [step(RETURN, ALLOW)]
    steps += [step(EQUAL, PRCTL[place], no=4), step(LOAD, FIRST), step(EQUAL, PR_SET_PDEATHSIG, no=1), error(EPERM)]
    steps += [step(RETURN, ALLOW)]
    if alone:
        families = [step(EQUAL, family, yes=len(FAMILIES) - n) for n, family in enumerate(FAMILIES)]
        steps += [step(EQUAL, SOCKET[place], no=len(families) + 2), step(LOAD, FIRST), *families, error(EAFNOSUPPORT)]
    else:
        steps += [step(EQUAL, SOCKET[place], no=1), error(EACCES)]
    return b"".join([*steps, step(RETURN, ALLOW)])
