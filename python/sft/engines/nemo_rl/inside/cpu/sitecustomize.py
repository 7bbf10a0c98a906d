"""Run by every Python that has this folder in its PYTHONPATH: NeMo-RL's driver, Ray's workers, NeMo-RL's converters.

Before NeMo-RL is imported, nemo_rl_cpu is, which makes it run without a GPU; before what of it uses Megatron,
megatron_cpu. A process that imports neither, such as Ray's own, pays nothing.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from typing import Any

MEGATRON = ("nemo_rl.models.megatron", "nemo_rl.models.policy.workers.megatron_policy_worker")


class Before(importlib.abc.MetaPathFinder):
    """Imports a module of ours before one of NeMo-RL's; leaves finding that to the others."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> None:
        if name == "nemo_rl":
            import nemo_rl_cpu
        elif name.startswith(MEGATRON):
            import nemo_rl_cpu

            nemo_rl_cpu.megatron()


sys.meta_path.insert(0, Before())
