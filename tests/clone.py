"""A clone of the repository as a user has it."""

import os
import subprocess
from pathlib import Path

from conftest import ROOT


class Clone:
    """A fresh clone with the environment of a user who has just logged in."""

    def __init__(self, path: Path):
        self.path = path
        subprocess.run(["git", "clone", "-q", ROOT, path], check=True)
        self.env = {k: v for k, v in os.environ.items() if k not in ("VENV", "WORK", "OMP_NUM_THREADS", "MAKEFLAGS")}

    def run(self, command: str, **env: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.path, env=self.env | env, capture_output=True, text=True, timeout=1500
        )
        print(f"$ {command}\n{done.stdout[-6000:]}{done.stderr[-3000:]}")  # pytest shows it when the test fails
        assert done.returncode == 0, command
        return done.stdout
