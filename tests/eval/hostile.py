"""Programs that a model might write, meant or not, to harm the machine; and a driver that runs them in the sandbox.

    python tests/eval/hostile.py VENV OUT

It needs Python's standard library only, so that another user's Python can run it, too. OUT gets one JSON line per
program. The only network addresses here are loopback ones: this machine is the only one that they could reach.
"""

import json
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LIMIT = 1.0  # seconds of a cell that may have to be stopped
ENOUGH = 60.0  # of one that ends by itself, on a machine that is slow to give out memory as well
AFTER = 30.0
MEMORY = 1 << 30
CANARY = "canary-of-the-host"


STOPPED = "timeout dead"


@dataclass(frozen=True)
class Program:
    """ends: the statuses that it may end with; has, lacks: in what the model is shown; detail: in why it ended."""

    code: str
    ends: str
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    detail: str = ""

    @property
    def limit(self) -> float:
        return LIMIT if "timeout" in self.ends.split() else ENOUGH


PROGRAMS = {
    "fork bomb": Program("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", STOPPED),
    "fork bomb, setsid, deaf to signals": Program(
        "import os,signal\nfor s in range(1,32):\n    try: signal.signal(s,signal.SIG_IGN)\n"
        "    except Exception: pass\n"
        "while True:\n    try:\n        if os.fork()==0: os.setsid()\n    except OSError: pass",
        STOPPED,
    ),
    "thread bomb": Program(
        "import threading,time\nwhile True: threading.Thread(target=time.sleep,args=(100,)).start()",
        "error",
        ("RuntimeError: can't start new thread",),
    ),
    "memory: one 64 GB block": Program("x=bytearray(64*10**9)", "error", ("MemoryError",)),
    "memory: growing list": Program("x=[]\nwhile True: x.append(bytearray(10**7))", "error timeout dead"),
    "memory: 40 processes": Program(
        # Where fork is refused before the memory is taken, by a slow machine, those that there are take it.
        "import os,time\nfor i in range(40):\n    try: child=os.fork()==0\n    except OSError: break\n"
        "    if child:\n        x=bytearray(b'1')*(2*10**8); time.sleep(99)\n"
        "        os._exit(0)\ntime.sleep(99)",
        "dead",
        detail="its processes held ",
    ),
    "disk: fill /tmp": Program("f=open('/tmp/big','wb')\nwhile True: f.write(b'x'*10**6)", "error", ("OSError",)),
    "disk: many files": Program(
        "i=0\nwhile True:\n    open(f'/tmp/f{i}','wb').write(b'x'*10**6); i+=1",
        "error",
        ("No space left on device",),
    ),
    "disk: /dev/shm": Program(
        "i=0\nwhile True:\n    open(f'/dev/shm/f{i}','wb').write(b'x'*10**6); i+=1",
        "error",
        ("No space left on device",),
    ),
    "inodes: empty files": Program("i=0\nwhile True:\n    open(f'/tmp/e{i}','wb').close(); i+=1", "timeout dead error"),
    "endless loop": Program("while True: pass", "timeout", ("Timed out\n",)),
    "endless loop in C": Program("9**9**9**9", "timeout", ("Timed out\n",)),
    "catastrophic regex, deaf to SIGINT": Program(
        "import signal,re\nsignal.signal(signal.SIGINT,signal.SIG_IGN)\nre.match('(a+)+$','a'*40+'b')",
        "timeout",
        ("Timed out\n",),
    ),
    "endless output": Program("while True: print('x'*1000)", "timeout", ("Timed out\n",)),
    "one print of 200 MB": Program("print('x'*200_000_000)", "ok", ("x" * 1000 + "<output cut>\n",)),
    "endless output past the capture": Program(
        "import os\nwhile True: os.write(1,b'x'*10**6); os.write(2,b'y'*10**6)", "timeout", ("Timed out\n",)
    ),
    "protocol: flood": Program(
        "import os\nfor fd in range(3,256):\n    try:\n        while True: os.write(fd,b'x'*65536)\n"
        "    except OSError: pass",
        "dead",
        detail="protocol",
    ),
    "protocol: forged answer": Program(
        "import os,json\nline=json.dumps({'nonce':'0'*32,'stdout':'forged\\n','stderr':'','failed':False})+'\\n'\n"
        "for fd in range(3,256):\n    try: os.write(fd,line.encode())\n    except OSError: pass",
        "dead",
        lacks=("forged",),
        detail="protocol",
    ),
    "close all descriptors": Program("import os\nos.closerange(0,256)", "dead"),
    "environment": Program(
        "import os\nprint(dict(os.environ))\nfor p in ('1','self'):\n    for n in ('environ','cmdline'):\n"
        "        try: print(open(f'/proc/{p}/{n}').read()[-200:])\n        except OSError as e: print(e)",
        "ok",
        lacks=("hf_secret", "SECRET_TOKEN", CANARY),
    ),
    "files of the host": Program(
        "import os\nfor p in ['/root','/home',CANARY,'/etc/shadow','/etc/passwd','/proc/1/root/root',"
        "'/proc/1/cwd/root','/var','/run','/sys','/mnt']:\n"
        "    try: print(p,'SEEN',os.listdir(p) if os.path.isdir(p) else open(p).read()[:50])\n"
        "    except OSError as e: print(p,e.strerror)",
        "ok",
        ("No such file",),
        ("SEEN", "secret-in-file"),
    ),
    "network": Program(
        "import socket\nfor a in [('127.0.0.1',PORT),('::1',PORT)]:\n"
        "    try: socket.create_connection(a,timeout=1); print(a,'CONNECTED')\n    except OSError as e: print(a,e)\n"
        "try:\n    s=socket.socket(socket.AF_UNIX); s.connect(ABSTRACT); print('CONNECTED')\n"
        "except OSError as e: print(e)\n"
        "try: s=socket.socket(type=socket.SOCK_DGRAM); s.sendto(b'x',('127.0.0.1',PORT))\n"
        "except OSError as e: print(e)\nprint(socket.if_nameindex() if hasattr(socket,'if_nameindex') else '')",
        "ok error",
        lacks=("CONNECTED", "eth"),
    ),
    "raw, netlink, vsock, alg sockets": Program(
        "import socket\nfor f,t in [(17,3),(16,3),(40,1),(2,3),(38,5)]:\n"
        "    try: s=socket.socket(f,t); print(f,'OPEN'); s.close()\n    except OSError as e: print(f,e)",
        "ok",
        lacks=("OPEN",),
    ),
    "kill parent, first and all": Program(
        "import os\nfor p in [os.getppid(),1,-1]:\n    try: os.kill(p,9); print(p,'sent')\n"
        "    except OSError as e: print(p,e)",
        "ok dead",
    ),
    "write outside": Program(
        "import os,sys\nfor p in ['/usr/x','/x','/etc/x',sys.path[1]+'/x','/proc/sys/kernel/core_pattern',"
        "'/proc/sys/kernel/hostname','/proc/sysrq-trigger','/sys/x','/proc/self/uid_map','/usr/lib/python3/x']:\n"
        "    try: open(p,'a').write('x'); print(p,'WRITTEN')\n    except OSError as e: print(p,e.strerror)",
        "ok",
        lacks=("WRITTEN",),
    ),
    "daemon that outlives": Program(
        "import os,time\nif os.fork()==0:\n    os.setsid()\n    if os.fork()==0: time.sleep(60)\n    os._exit(0)\n"
        "print('left a daemon')",
        "ok",
        ("left a daemon\n",),
    ),
    "segfault": Program("import ctypes; ctypes.string_at(0)", "dead", ("Timed out\n",)),
    "os._exit": Program("import os; os._exit(0)", "dead", ("Timed out\n",)),
    "sys.exit": Program("import sys; sys.exit(3)", "error", ("SystemExit: 3",)),
    "SIGSTOP to itself": Program("import os; os.kill(os.getpid(),19)", "timeout", ("Timed out\n",)),
    "raise limits": Program(
        "import resource\nfor n in ['AS','NPROC','FSIZE','CPU','NOFILE','CORE']:\n"
        "    try: resource.setrlimit(getattr(resource,'RLIMIT_'+n),(-1,-1)); print(n,'RAISED')\n"
        "    except Exception as e: print(n,e)",
        "ok",
        lacks=("RAISED",),
    ),
    "namespaces, mount, ptrace, bpf, io_uring, keys": Program(
        "import ctypes,os,platform\nl=ctypes.CDLL(None,use_errno=True)\nx=platform.machine()=='x86_64'\n"
        "def t(n,a,b,*r):\n    ctypes.set_errno(0); v=l.syscall(a if x else b,*r)\n"
        "    print(n,os.strerror(ctypes.get_errno()) if v<0 else 'ALLOWED')\n"
        "t('unshare',272,97,0x10000000)\nt('mount',165,40,b'none',b'/tmp',b'tmpfs',0,None)\n"
        "t('ptrace',101,117,16,1,0,0)\nt('bpf',321,280,0,0,0)\nt('uring',425,425,8,ctypes.create_string_buffer(120))\n"
        "t('key',248,217,b'user',b'k',b'v',1,-3)\nt('fault',323,282,1)\n"
        "t('perf',298,241,ctypes.create_string_buffer(128),0,-1,-1,0)\nt('module',175,105,b'',0,b'')\n"
        "t('reboot',169,142,0,0,0,None)\nt('clock',164,170,None,None)\nt('clone',56,220,0x10000000,0,0,0,0)\n"
        "t('clone3',435,435,None,0)\nt('memfd',319,279,b'x',0)",
        "ok",
        ("unshare Operation not permitted", "clone3 Function not implemented"),
        ("ALLOWED",),
    ),
    "deep recursion": Program(
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()", "error timeout dead"
    ),
    "open 100,000 files": Program("x=[]\nwhile True: x.append(open('/dev/null'))", "error", ("Too many open files",)),
    "SysV shared memory": Program(
        "import ctypes\nl=ctypes.CDLL(None); print(l.shmget(0x1234,50*2**20,0o1666))", "ok", ("-1\n",)
    ),
    "zombie flood": Program(
        "import os\nfor i in range(2000):\n    try:\n        if os.fork()==0: os._exit(0)\n"
        "    except OSError as e: print('refused',e.errno); break",
        "ok",
        ("refused 11",),
    ),
    "sleep 1000": Program("import time; time.sleep(1000)", "timeout", ("Timed out\n",)),
    # What was not among the 37 of the trial.
    "fork that comes back": Program("import os\nos.fork()\nprint('here')", "ok", ("here\n",)),
    "forged answer later, by a thread": Program(
        "import os,threading,time\ndef f():\n    time.sleep(1)\n    for fd in range(3,256):\n"
        "        try: os.write(fd,b'{}\\n')\n        except OSError: pass\n"
        "threading.Thread(target=f).start()\nprint('now')",
        "ok",
        ("now\n",),
    ),
    "deaf to KeyboardInterrupt": Program(
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass", "timeout", ("Timed out\n",)
    ),
    "all processes have the filter": Program(
        "import os\nfor p in os.listdir('/proc'):\n    if p.isdigit(): print([l for l in open(f'/proc/{p}/status') if "
        "l.startswith('Seccomp:')])",
        "ok",
        ("Seccomp:\\t2",),
        ("Seccomp:\\t0",),
    ),
    "outlive who started it": Program("import ctypes\nprint(ctypes.CDLL(None).prctl(1,0,0,0,0))", "ok", ("-1\n",)),
}


def alive(nonce: str) -> int:
    """Processes of the session that was started with `nonce`."""
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                count += nonce.encode() in (entry / "cmdline").read_bytes() and state != "Z"
    return count


class Listener:
    """What a program must not reach: a port and an abstract socket of this machine's loopback."""

    def __init__(self) -> None:
        self.hits: list[str] = []
        self.tcp, self.unix = socket.socket(), socket.socket(socket.AF_UNIX)
        self.udp = socket.socket(type=socket.SOCK_DGRAM)
        self.tcp.bind(("127.0.0.1", 0))
        self.port = self.tcp.getsockname()[1]
        self.udp.bind(("127.0.0.1", self.port))
        self.name = f"\0hostile-{os.getpid()}"
        self.unix.bind(self.name)
        for server, what in ((self.tcp, "tcp"), (self.unix, "unix")):
            server.listen(50)
            threading.Thread(target=self.accept, args=(server, what), daemon=True).start()
        threading.Thread(target=self.receive, daemon=True).start()

    def accept(self, server: socket.socket, what: str) -> None:
        while True:
            client, _ = server.accept()
            self.hits.append(what)
            client.close()

    def receive(self) -> None:
        while True:
            self.udp.recv(100)
            self.hits.append("udp")


def main() -> None:
    from sft.eval.sandbox.jail import Limits, open_jail
    from sft.eval.sandbox.session import Session

    os.environ["SECRET_TOKEN"] = "hf_secret"
    canary = Path(f"/tmp/{CANARY}-{os.getpid()}")
    canary.write_text("secret-in-file")
    canary.chmod(0o644)
    listener = Listener()
    jail = open_jail(Path(sys.argv[1]), limits=Limits(memory=MEMORY))
    given = f"CANARY={str(canary)!r}\nPORT={listener.port}\nABSTRACT={listener.name!r}\n"

    def run(name: str) -> dict:
        with Session(jail, timeout=AFTER) as session:
            told = session.run(given)
            nonces = [session.started]
            found = session.run(PROGRAMS[name].code, PROGRAMS[name].limit)
            if session.process:
                time.sleep(1.5 if "later" in name else 0)
            before = time.monotonic()
            after = session.run("print(6*7)", AFTER)
            waited = time.monotonic() - before
            nonces.append(session.started)
            before = time.monotonic()
        closed = time.monotonic() - before
        return {
            "name": name, "given": told.status, "status": found.status, "text": found.text, "detail": found.detail,
            "seconds": round(found.seconds, 2), "after": after.text, "after_detail": after.detail,
            "after_seconds": round(waited, 2), "close_seconds": round(closed, 2),
            "left": sum(map(alive, set(nonces))),
        }  # fmt: skip

    with open(sys.argv[2], "w", encoding="utf-8") as out, ThreadPoolExecutor(4) as pool:
        for row in pool.map(run, PROGRAMS):
            out.write(json.dumps(row) + "\n")
        facts = {"facts": jail.facts(), "hits": listener.hits, "uid": os.geteuid()}
        out.write(json.dumps(facts) + "\n")
    canary.unlink()
    os._exit(0)  # the listeners' threads wait for ever


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent.parent / "python"))
    main()
