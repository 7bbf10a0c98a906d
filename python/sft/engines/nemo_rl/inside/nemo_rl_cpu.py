"""NeMo-RL v0.7.0 without a GPU: imported before it in every process (see cpu/sitecustomize.py). Not for training that
counts: it is there so that NeMo-RL's own code can be run where a recipe is written.

What names a GPU is told that the CPU is it: devices "cuda" are "cpu", NCCL is gloo, streams and events do nothing.
NeMo-RL's files stay as they are. Replaced of the mathematics is only what a GPU's packages do: the attention of packed
rows (megatron_cpu.packed_attention) and Transformer Engine's layers, for which Megatron-Core's own stand in.
"""

import functools
import os
import sys
import types
import typing
from typing import Any
from unittest import mock

import typing_extensions
from absent import Absent, AbsentModule

# v0.7.0 is written for Python 3.13, and pydantic takes typing's TypedDict from 3.12 only.
for _name in ("override", "TypedDict", "NotRequired", "Required", "Unpack", "Self"):
    if sys.version_info < (3, 12):
        setattr(typing, _name, getattr(typing_extensions, _name))

# Loggers that are off, tools for debugging, and what only other algorithms or a GPU need.
sys.meta_path.append(
    Absent(
        *("mlflow", "swanlab", "wandb"),
        *(
            "debugpy",
            "decord",
            "fastapi",
            "nccl",
            "nvtx",
            "scipy",
            "soundfile",
            "tensordict",
            "transfer_queue",
            "uvicorn",
        ),
    )
)
sys.modules["torch.utils.tensorboard"] = AbsentModule("torch.utils.tensorboard")  # torch has it, and looks for more
os.environ["TORCHDYNAMO_DISABLE"] = "1"  # compiling takes longer than it saves, and looks for the GPU

import torch
import torch.distributed as dist
import torch.utils._device


class Stream:
    """A stream, an event or a device's context in which nothing is ever pending."""

    def __init__(self, *_: Any, **__: Any): ...

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> bool:
        return False

    def query(self) -> bool:
        return True

    def elapsed_time(self, _: Any) -> float:
        return 0.0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


def _returns(value: Any) -> Any:
    """A function of torch.cuda; one for each use, for torch's compiler tells functions by their identity."""
    return lambda *_, **__: value


MEMORY = 64 << 30  # bytes that the "GPU" says it has
NOTHING = (
    "set_device", "empty_cache", "synchronize", "reset_peak_memory_stats", "manual_seed", "manual_seed_all", "init",
    "_lazy_init", "ipc_collect", "set_rng_state", "reset_max_memory_allocated", "set_stream", "cudart",
)  # fmt: skip
for _name in NOTHING:
    setattr(torch.cuda, _name, _returns(None))
for _name in ("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"):
    setattr(torch.cuda, _name, _returns(0))
for _name, _value in {
    "current_device": 0,
    "device_count": 1,
    "is_available": False,
    "get_device_name": "CPU",
    "get_device_capability": (9, 0),
    "get_device_properties": types.SimpleNamespace(
        name="CPU", major=9, minor=0, total_memory=MEMORY, multi_processor_count=os.cpu_count()
    ),
    "mem_get_info": (MEMORY, MEMORY),
    "memory_stats": {},
    "current_stream": Stream(),
    "default_stream": Stream(),
    "stream": Stream(),
}.items():
    setattr(torch.cuda, _name, _returns(_value))
torch.compile = lambda model=None, **_: model if model is not None else (lambda function: function)
for _name in ("range_push", "range_pop", "range_start", "range_end", "mark"):
    setattr(torch.cuda.nvtx, _name, _returns(None))
torch.cuda.get_rng_state = torch.cuda.random.get_rng_state = lambda *_, **__: torch.get_rng_state()
torch.cuda.random.set_rng_state = torch.cuda.set_rng_state
torch.cuda.default_generators = (torch.default_generator,)
torch.cuda.Stream = torch.cuda.ExternalStream = torch.cuda.Event = torch.cuda.device = Stream


def place(device: Any) -> Any:
    """`device` with each GPU replaced by the CPU; what is not a device is returned as it is."""
    if isinstance(device, torch.device):
        return torch.device("cpu") if device.type == "cuda" else device
    if (isinstance(device, int) and not isinstance(device, bool)) or (
        isinstance(device, str) and device.startswith("cuda")
    ):
        return "cpu"
    return device


# What makes a tensor. By name, not as a TorchFunctionMode: that is a thread's, and Ray has several.
FACTORIES = (
    "tensor", "as_tensor", "asarray", "empty", "zeros", "ones", "full", "rand", "randn", "randint", "randperm",
    "arange", "linspace", "eye", "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like",
    "empty_strided", "tril_indices", "triu_indices", "load",
)  # fmt: skip


def _placed(function: Any, key: str = "device", rest: int | None = None) -> Any:
    """`function` with its device placed: the argument `key`, and, for methods, any that stands without a name."""

    @functools.wraps(function)
    def placed(*args: Any, **kwargs: Any) -> Any:
        if key in kwargs:
            kwargs[key] = place(kwargs[key])
        if rest is not None:
            args = (*args[:rest], *map(place, args[rest:]))
        return function(*args, **kwargs)

    return placed


# `with torch.device("meta")` knows them by identity, and keeps the list that it makes at its first use.
torch.utils._device._device_constructors()
for _name in FACTORIES:
    setattr(torch, _name, _placed(getattr(torch, _name), "map_location" if _name == "load" else "device"))
for _class in (torch.Tensor, torch.nn.Module):
    _class.to = _placed(_class.to, rest=1)
for _name in ("new_empty", "new_zeros", "new_ones", "new_full", "new_tensor"):
    setattr(torch.Tensor, _name, _placed(getattr(torch.Tensor, _name)))
torch.Tensor.cuda = torch.Tensor.pin_memory = torch.nn.Module.cuda = lambda self, *_, **__: self
_type = torch.Tensor.type


def type_on_gpu(self: torch.Tensor, dtype: Any = None, **kwargs: Any) -> Any:
    """Megatron-Core's distributed optimizer knows a weight by this name (core/optimizer/distrib_optimizer.py)."""
    if dtype is None:
        return _type(self).replace("torch.", "torch.cuda.", 1)
    return _type(self, dtype.replace("torch.cuda.", "torch.") if isinstance(dtype, str) else dtype, **kwargs)


torch.Tensor.type = type_on_gpu

_init_process_group, _new_group = dist.init_process_group, dist.new_group
_init_device_mesh = dist.device_mesh.init_device_mesh


def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
    kwargs.pop("device_id", None)
    _init_process_group("gloo", *args, **kwargs)


def new_group(ranks: Any = None, timeout: Any = None, backend: Any = None, pg_options: Any = None, **kw: Any) -> Any:
    kw.pop("device_id", None)
    return _new_group(ranks, timeout=timeout, backend="gloo", **kw)


def init_device_mesh(device_type: str, *args: Any, **kwargs: Any) -> Any:
    return _init_device_mesh("cpu", *args, **kwargs)


for _module in (dist, dist.distributed_c10d):
    _module.init_process_group, _module.new_group = init_process_group, new_group
for _module in (dist, dist.device_mesh):
    _module.init_device_mesh = init_device_mesh


def megatron() -> None:
    """Before NeMo-RL's modules that use Megatron: Megatron-Core and Bridge for a CPU. Can be called again."""
    if "megatron_cpu" in sys.modules:
        return
    import megatron_cpu

    torch.cuda.current_device = _returns(0)  # an index, as v0.7.0 compares it; `place` makes a device of it
    import megatron.bridge.training.initialize as bridge
    from megatron.bridge.models.gpt_provider import GPTModelProvider

    finalize = GPTModelProvider.finalize

    def finalize_for_cpu(self: Any) -> None:
        megatron_cpu.configure(self)
        self.use_cpu_initialization = True
        finalize(self)

    GPTModelProvider.finalize = finalize_for_cpu
    initialize = bridge.initialize_megatron

    def initialize_without_gpu(*args: Any, **kwargs: Any) -> Any:
        with mock.patch.object(torch.cuda, "is_available", return_value=True):  # it asserts that
            return initialize(*args, **kwargs)

    bridge.initialize_megatron = initialize_without_gpu
    bridge.compile_helpers = _returns(None)  # of Megatron's own data sets; PyPI's package has no source of them
    _write_common()
    _resume_adam()


def _write_common() -> None:
    """A checkpoint's common.pt, beside the checkpoint as Megatron-Core makes it.

    v0.7.0 asks that file whether there is an optimizer to resume with (nemo_rl/utils/checkpoint.py:176-179), and its
    own Megatron-Core writes it. PyPI's (0.19.2) keeps the same state in the checkpoint, but has the function still.
    """
    from megatron.core.dist_checkpointing.strategies.common import save_common
    from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

    save, async_save = TorchDistSaveShardedStrategy.save, TorchDistSaveShardedStrategy.async_save

    def save_with_common(self: Any, sharded_state_dict: dict[str, Any], checkpoint_dir: Any) -> None:
        save(self, sharded_state_dict, checkpoint_dir)
        save_common(sharded_state_dict["common_state"].data, str(checkpoint_dir))

    def async_save_without_nvrx(self: Any, *args: Any, async_strategy: str = "mcore", **kwargs: Any) -> Any:
        if async_strategy == "nvrx":  # an empty module only: v0.7.0 then falls back to Megatron-Core's own
            raise ModuleNotFoundError("nvidia_resiliency_ext")
        return async_save(self, *args, async_strategy=async_strategy, **kwargs)

    TorchDistSaveShardedStrategy.save = save_with_common
    TorchDistSaveShardedStrategy.async_save = async_save_without_nvrx


def _resume_adam() -> None:
    """Resuming with torch's own Adam, which stands in for Transformer Engine's.

    Megatron-Core 0.19.2 asks for the optimizer's step before there is one (core/optimizer/distrib_optimizer.py:839),
    and keeps it in the groups alone: of each weight's own count, which torch's Adam corrects its bias by, the fresh one
    takes precedence over the one that was saved (1785, 1225).
    """
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    sharded, load = DistributedOptimizer.sharded_state_dict, DistributedOptimizer.load_state_dict

    def sharded_state_dict(self: Any, model: Any, is_loading: bool = False, *args: Any, **kwargs: Any) -> Any:
        if is_loading:
            self.init_state_fn(self.optimizer, self.config)
            for state in self.optimizer.state.values():
                state.setdefault("step", torch.tensor(0.0))
        return sharded(self, model, is_loading, *args, **kwargs)

    def load_state_dict(self: Any, state_dict: Any) -> None:
        load(self, state_dict)
        for group in self.optimizer.param_groups:
            for weight in group["params"]:
                self.optimizer.state[weight]["step"] = torch.tensor(float(group["step"]))

    DistributedOptimizer.sharded_state_dict = sharded_state_dict
    DistributedOptimizer.load_state_dict = load_state_dict
