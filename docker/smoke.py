"""smoke.py ENGINE: the last step of every image's build: import what the engine needs and print the versions as JSON.

Runs in the image's own Python, on its standard library. An import that fails fails the build.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

# The modules that a training link or an evaluation imports, and the distribution that has the version.
ENGINES = {
    "cpu": {
        "torch": "torch", "transformers": "transformers", "datasets": "datasets",
        "nemo_automodel.recipes.llm.train_ft": "nemo-automodel",
    },
    "automodel": {
        "torch": "torch", "transformers": "transformers", "datasets": "datasets",
        "nemo_automodel.recipes.llm.train_ft": "nemo-automodel",
    },
    "nemo-rl": {"torch": "torch", "transformers": "transformers", "ray": "ray", "nemo_rl": "nemo-rl"},
    "nemo2": {
        "torch": "torch", "lightning": "lightning", "megatron.core": "megatron-core", "nemo_run": "nemo-run",
        "nemo.collections.llm": "nemo-toolkit",
    },
    "vllm": {"torch": "torch", "transformers": "transformers", "openai": "openai", "vllm": "vllm"},
}  # fmt: skip
# NeMo-RL runs each kind of actor in an environment of its own. Its build continues without one that could not be made,
# and every node of a job would then try to build it; the two that SFT can run in have to be there.
ACTORS = {
    "nemo_rl.models.policy.workers.megatron_policy_worker.MegatronPolicyWorker": {
        "torch": "torch", "megatron.core": "megatron-core", "megatron.bridge": "megatron-bridge",
    },
    "nemo_rl.models.policy.workers.dtensor_policy_worker_v2.DTensorPolicyWorkerV2": {
        "torch": "torch", "nemo_automodel": "nemo-automodel",
    },
}  # fmt: skip


def check(modules: dict[str, str]) -> dict[str, str]:
    """Import each module; returns distribution -> version."""
    versions = {"python": platform.python_version()}
    for module, distribution in modules.items():
        try:
            imported = importlib.import_module(module)
        except (ImportError, OSError) as error:
            # A build has no GPU driver. What cannot be loaded without one is at least there.
            if "libcuda" not in str(error) and "libnvidia" not in str(error):
                sys.exit(f"error: {sys.executable} cannot import {module} ({error}); the image is not usable")
            imported = None
        try:
            versions[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            versions[distribution] = str(getattr(imported, "__version__", "unknown"))
    return versions


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--modules":
        print(json.dumps(check(json.loads(sys.argv[2]))))
        return
    if len(sys.argv) != 2 or sys.argv[1] not in ENGINES:
        sys.exit(f"error: which engine; usage: smoke.py {'|'.join(ENGINES)}")
    versions: dict[str, object] = dict(check(ENGINES[sys.argv[1]]))
    for actor, modules in ACTORS.items() if sys.argv[1] == "nemo-rl" else ():
        python = Path(os.environ.get("NEMO_RL_VENV_DIR", "/opt/ray_venvs")) / actor / "bin" / "python"
        if not python.is_file():
            sys.exit(f"error: the base image has no {python}; take another NEMO_RL_IMAGE")
        command = [str(python), __file__, "--modules", json.dumps(modules)]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if run.returncode:
            sys.exit(run.returncode)
        versions[actor.rpartition(".")[2]] = json.loads(run.stdout.splitlines()[-1])
    print(json.dumps(versions))


if __name__ == "__main__":
    main()
