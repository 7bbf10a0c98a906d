"""The engines, in one shape: each is a package here, named as ENGINE is, with the same modules for the same things.

config    a recipe as the engine's own configuration; text() prints it
link      one training job: open_link before it, link in the engine's image, close_link after it; base_folders; and
          where the engine has them import_base, export, generate
saved     saved_steps: the complete checkpoints; history: the losses of the steps
row       view: a row as it enters a batch (not NeMo 2.0's, whose rows make inspect does not show)

Stages ask part(); nobody else chooses by ENGINE which module to import.
"""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from sft.lib.errors import usage


def part(engine: str, name: str) -> ModuleType:
    """Module `name` of an engine, by the recipe's ENGINE."""
    return import_module(f"sft.engines.{engine.replace('-', '_')}.{name}")


def action(engine: str, name: str) -> Callable[..., Any]:
    """Function `name` of an engine's link module. Ends with status 2 where the engine has none."""
    found = getattr(part(engine, "link"), name, None)
    return found or usage(
        f"engine {engine} has no {name} here; run the stage by make, which knows what each engine has"
    )
