"""Run NeMo-RL's training driver, and end when it does.

    python nemo_rl_driver.py REASON SCRIPT [ARGUMENT...]     # inside the engine's image

After an exception the interpreter would tear down what the driver holds, and the policy's destructor asks Ray, which is
shut down by then, to start anew: the process hangs (v0.7.0 nemo_rl/models/policy/lm_policy.py:1103-1111). So the
traceback is printed, what it says goes to the file REASON, and the process is over with status 1.

Standard library only.
"""

import os
import runpy
import sys
import traceback
from pathlib import Path


def main() -> None:
    reason, script = sys.argv[1:3]
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(script).resolve().parent)  # as python SCRIPT has it
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
