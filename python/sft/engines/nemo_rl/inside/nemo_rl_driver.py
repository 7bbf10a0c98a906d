"""Run NeMo-RL's training driver, and end when it does.

    python nemo_rl_driver.py REASON SCRIPT [ARGUMENT...]     # inside the engine's image

After an exception the interpreter would tear down what the driver holds, and the policy's destructor asks Ray, which is
shut down by then, to start again: the process hangs (v0.7.0 nemo_rl/models/policy/lm_policy.py:1103-1111). So the
traceback is printed, what it says goes to the file REASON, and the process is over with status 1.

When the file LINK_STOP appears, it saves and ends after the step that it is at, as when its time is up.

Standard library only.
"""

import os
import runpy
import sys
import threading
import time
import traceback
from pathlib import Path


def heed_stop(file: Path) -> None:
    """Wait for `file`; then its time is up. After each step NeMo-RL asks TimeoutChecker.check_save whether it is, saves
    and returns if so (v0.7.0 nemo_rl/utils/timer.py, nemo_rl/algorithms/sft.py)."""
    while not (file.exists() and "nemo_rl.utils.timer" in sys.modules):
        time.sleep(1)
    checker = getattr(sys.modules["nemo_rl.utils.timer"], "TimeoutChecker", None)
    if checker:
        checker.check_save = lambda *_, **__: True  # main's takes an argument
        print("asked to save and end after this step", flush=True)


def main() -> None:
    reason, script = sys.argv[1:3]
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(script).resolve().parent)  # as python SCRIPT has it
    if os.environ.get("LINK_STOP"):
        threading.Thread(target=heed_stop, args=[Path(os.environ["LINK_STOP"])], daemon=True).start()
    try:
        runpy.run_path(script, run_name="__main__")
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        # Ray puts the task before a worker's own error, which is the last line.
        words = lines[-1] if type(error).__name__.startswith("RayTaskError") else f"{type(error).__name__}: {lines[0]}"
        Path(reason).write_text(f"{words}\n", encoding="utf-8")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
