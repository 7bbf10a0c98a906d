"""The jail around a session: bubblewrap, or nsjail where there is none, and what this machine lets them do.

Inside: namespaces of its own for users, processes, network, mounts, IPC and host name; the seccomp program; Python's
files and the sandbox's packages read-only; /tmp and /dev/shm of bounded size; an environment of nothing but what is
said here. Started as root it becomes another user first: RLIMIT_NPROC does not bind root, who could also read what root
owns.
"""

import base64
import functools
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sft.eval.sandbox import filter as seccomp
from sft.lib.errors import Failure, usage

MB = 2**20
NOBODY = 65534  # the user inside, and outside where root starts it
WORKER = Path(__file__).with_name("worker.py")
SYSTEM = ("bin", "lib", "lib32", "lib64", "sbin")  # of a system with a merged /usr links into it, else folders
HIDDEN = ("/usr/lib/python3",)  # Debian's own packages, which are not the sandbox's
# Run with the worker's memory first in line for the kernel's OOM killer, before vLLM in the same job's cgroup.
FIRST_TO_GO = ["/bin/sh", "-c", 'echo 1000 2>/dev/null >/proc/self/oom_score_adj; exec "$@"', "sh"]
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MPLCONFIGDIR": "/tmp",
    "IPYTHONDIR": "/tmp/.ipython",
}
REMEDIES = {
    "Creating new namespace failed": "let users make namespaces (sysctl user.max_user_namespaces)",
    "No permissions to create": "let users make namespaces (sysctl kernel.unprivileged_userns_clone=1)",
    "setting up uid map": "give bwrap an AppArmor profile that allows userns",
    "Unknown option": "install bubblewrap 0.8 or newer",
    "Permission denied": "put the sandbox and its Python where every user can read, or do not start it as root",
    "Can't find source path": "put the sandbox and its Python where every user can read, or do not start it as root",
    "No such file": "rebuild the sandbox by scripts/sandbox.sh",
}

Kind = Literal["bwrap", "bwrap without /proc", "nsjail", "none"]


@dataclass(frozen=True)
class Limits:
    """Of one session. memory: bytes of a process, and of all together; cpu: seconds of a process; the rest: numbers."""

    memory: int = 4096 * MB
    processes: int = 32
    open_files: int = 256
    file_size: int = 64 * MB
    tmp: int = 64 * MB
    shm: int = 8 * MB
    cpu: int = 300

    def of_process(self) -> dict[str, int]:
        return {
            "AS": self.memory,
            "FSIZE": self.file_size,
            "NPROC": self.processes,
            "NOFILE": self.open_files,
            "CORE": 0,
            "CPU": self.cpu,
        }


@dataclass(frozen=True)
class Python:
    """The interpreter of the sandbox: its program, the packages beside it, and the folder it was installed to."""

    program: Path
    site: Path
    prefix: Path

    @property
    def shown(self) -> str:
        """Where the packages lie inside: as in the container of NeMo-Skills, for tracebacks name it to the model."""
        return f"/usr/local/lib/{self.site.parent.name}/site-packages"


@dataclass(frozen=True)
class Isolation:
    """What keeps the model's code from this machine; reason: why it is only weak, with what would help."""

    kind: Kind
    reason: str = ""

    @property
    def level(self) -> str:
        return "weak" if self.kind == "none" else "strong"


@dataclass(frozen=True)
class Jail:
    isolation: Isolation
    python: Python
    limits: Limits = field(default_factory=Limits)

    def facts(self) -> dict[str, Any]:
        """What a result says of the sandbox that made it."""
        found = {"isolation": self.isolation.level, "by": self.isolation.kind, "limits": asdict(self.limits)}
        return found | ({"reason": self.isolation.reason} if self.isolation.reason else {})


def find_python(venv: Path) -> Python:
    """The interpreter that a virtual environment was made from. Raises Failure when there is none."""
    remedy = "run: scripts/sandbox.sh"
    try:
        lines = (venv / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except OSError:
        raise Failure(f"{venv} has no Python for the model's code; {remedy}") from None
    settings = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    sites = sorted(venv.glob("lib/python3.*/site-packages"))
    if "home" not in settings or len(sites) != 1 or not (venv / "PINS").is_file():
        raise Failure(f"{venv} is not whole; remove it and {remedy}")
    program = Path(settings["home"]) / sites[0].parent.name
    if not program.is_file():
        raise Failure(f"{program}, which {venv} was made from, is gone; remove {venv} and {remedy}")
    program = program.resolve()
    return Python(program, sites[0].resolve(), program.parent.parent)


def other_user() -> int | None:
    """The user that a session started by root runs as; None: as who started it, who is not really root."""
    if os.geteuid() != 0:
        return None
    ranges = [list(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    mapped = any(first <= NOBODY < first + count for first, _, count in ranges)
    # Root of a container without other users is an ordinary one outside, whom NPROC binds.
    return NOBODY if mapped else None


def memory_file(content: bytes) -> int:
    number = os.memfd_create("sandbox")
    os.write(number, content)
    os.lseek(number, 0, os.SEEK_SET)
    return number


def bwrap_arguments(python: Python, limits: Limits, proc: bool, program: int) -> list[str]:
    """Without the command itself; program: a descriptor of the seccomp filter."""
    words = ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
    words += ["--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "sandbox", "--clearenv"]
    words += ["--seccomp", str(program)]
    for name, value in (ENVIRONMENT | {"PYTHONPATH": python.shown}).items():
        words += ["--setenv", name, value]
    for source in system_folders():
        words += ["--ro-bind", source, source]
    for name in SYSTEM:
        path = Path("/") / name
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
    words += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    if python.prefix != Path("/usr"):
        words += ["--ro-bind", str(python.prefix), str(python.prefix)]
    for hidden in HIDDEN:
        if Path(hidden).is_dir():
            words += ["--size", str(limits.shm), "--tmpfs", hidden, "--remount-ro", hidden]
    words += ["--ro-bind", str(python.site), python.shown, "--dev", "/dev"]
    words += ["--proc", "/proc"] if proc else []
    words += ["--size", str(limits.tmp), "--tmpfs", "/tmp", "--size", str(limits.shm), "--tmpfs", "/dev/shm"]
    return [*words, "--chdir", "/tmp", "--remount-ro", "/"]


def nsjail_arguments(python: Python, limits: Limits) -> list[str]:
    """Without the command itself. Its own limits are left as they are: the worker sets ours."""
    words = ["-Mo", "--really_quiet", "--time_limit", "0", "--hostname", "sandbox"]
    words += ["--user", str(NOBODY), "--group", str(NOBODY), "--cwd", "/tmp"]
    for name in ("as", "core", "cpu", "fsize", "nofile", "nproc", "stack"):
        words += [f"--rlimit_{name}", "hard"]
    for name, value in (ENVIRONMENT | {"PYTHONPATH": python.shown}).items():
        words += ["-E", f"{name}={value}"]
    for source in system_folders():
        words += ["-R", source]
    for name in SYSTEM:
        path = Path("/") / name
        if path.is_symlink():
            words += ["-s", f"{path.readlink()}:{path}"]
    if python.prefix != Path("/usr"):
        words += ["-R", str(python.prefix)]
    for hidden in HIDDEN:
        if Path(hidden).is_dir():
            words += ["-R", f"{python.site}:{hidden}"]  # an empty folder of its own would be writable
    for device in ("null", "zero", "urandom"):
        words += ["-B", f"/dev/{device}"]
    words += ["-R", f"{python.site}:{python.shown}", "-m", f"none:/tmp:tmpfs:size={limits.tmp}"]
    return [*words, "-m", f"none:/dev/shm:tmpfs:size={limits.shm}", "--"]


def system_folders() -> list[str]:
    """What Python and the programs that it calls need of the system."""
    found = [f"/usr/{name}" for name in ("bin", "lib", "lib32", "lib64", "share/zoneinfo")]
    found += [f"/{name}" for name in SYSTEM if not (Path("/") / name).is_symlink()]
    return [folder for folder in found if Path(folder).is_dir()]


@functools.cache
def starter(process: int) -> ThreadPoolExecutor:
    """The one thread of a process that starts jails: --die-with-parent means the thread that did, not the process."""
    return ThreadPoolExecutor(1, f"sandbox-{process}")


def launch(
    kind: Kind, python: Python, limits: Limits, settings: dict[str, Any], code: str | None = None
) -> tuple["subprocess.Popen[bytes]", int]:
    """Start the worker in a jail; returns it, and a descriptor of the file that its errors go to.

    settings: nonce, style and most of worker.py; code: run this in place of the worker. Raises OSError.
    """
    alone = kind != "none"
    program, errors, arguments = seccomp.program(alone=alone), memory_file(b""), -1
    own = program if kind in ("nsjail", "none") else b""  # bwrap loads it itself, before Python begins
    settings = settings | {"limits": limits.of_process(), "filter": base64.b64encode(own).decode()}
    text = WORKER.read_text(encoding="utf-8") if code is None else code
    command = [str(python.program), "-s", "-B", "-u", "-c", text, json.dumps(settings)]
    rules = memory_file(program)
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
    if kind == "nsjail":
        command = ["nsjail", *nsjail_arguments(python, limits), *command]
    elif kind == "none":
        environment = ENVIRONMENT | {"PYTHONPATH": str(python.site)}
    else:
        words = bwrap_arguments(python, limits, kind == "bwrap", rules)
        # Not on the command line, which can be read inside: it names the host's folders.
        arguments = memory_file(b"".join(word.encode() + b"\0" for word in words))
        command = ["bwrap", "--args", str(arguments), "--", *command]
    options: dict[str, Any] = {"env": environment, "cwd": "/", "umask": 0o077, "start_new_session": True}
    if (user := other_user()) is not None:
        options |= {"user": user, "group": user, "extra_groups": []}
    options |= {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors, "bufsize": 0}
    options["pass_fds"] = [number for number in (rules, arguments) if number >= 0 and kind.startswith("bwrap")]
    try:
        start = starter(os.getpid()).submit(lambda: subprocess.Popen([*FIRST_TO_GO, *command], **options))
        return start.result(), errors
    except BaseException:
        os.close(errors)
        raise
    finally:
        for number in (rules, arguments):
            if number >= 0:
                os.close(number)


def why_not(kind: Kind, python: Python) -> str:
    """Empty when such a jail works here, else what it said."""
    code = "import json, encodings.idna, ctypes; print('inside')"
    try:
        process, errors = launch(kind, python, Limits(), {}, code)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{error}"
    try:
        out, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        out = b""
    said = os.pread(errors, 10_000, 0).decode(errors="replace").strip()
    os.close(errors)
    if process.returncode == 0 and out == b"inside\n":
        return ""
    return said.splitlines()[-1] if said else f"status {process.returncode}"


@functools.cache
def isolation(python: Python) -> Isolation:
    """The strongest jail that works here; tried out once a process."""
    if seccomp.platform.machine() not in seccomp.ARCHITECTURES:
        return Isolation("none", f"no seccomp filter is known for {seccomp.platform.machine()}")
    reasons = []
    kinds: tuple[Kind, ...] = ("bwrap", "bwrap without /proc", "nsjail")
    for kind in kinds:
        program = kind.split()[0]
        if shutil.which(program) is None:
            reasons.append(f"{program} is not installed")
        elif not (reason := why_not(kind, python)):
            return Isolation(kind)
        else:
            help_ = next((text for sign, text in REMEDIES.items() if sign in reason), "")
            reasons.append(f"{kind}: {reason}" + (f" ({help_})" if help_ else ""))
    return Isolation("none", "; ".join(dict.fromkeys(reasons)))


def open_jail(venv: Path, weak: bool = False, limits: Limits | None = None) -> Jail:
    """The jail for the code of a model, with the packages of `venv`.

    weak: where the strong one cannot be had, run with limits and a seccomp filter only: the code then reads what this
    user can read, or what everybody can where root started it. Raises Failure, without `weak` also for such a machine.
    """
    if sys.platform != "linux":
        usage(f"the sandbox needs Linux, and this is {sys.platform}; evaluate without code execution")
    python = find_python(venv)
    found = isolation(python)
    if found.level == "weak" and not weak:
        raise Failure(
            f"the model's code cannot be kept apart from this machine ({found.reason.replace(';', ',')}); install "
            "bubblewrap where users may make namespaces, or allow weak isolation with EVAL_WEAK_SANDBOX=yes"
        )
    return Jail(found, python, limits or Limits())
