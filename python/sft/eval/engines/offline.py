"""Answers by vLLM, in this process: its own loop, so that no request waits for the slowest one of a list."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft.eval.engines.base import Finished, Request, Sampling, Vocabulary
from sft.lib.errors import Failure, Interrupted
from sft.lib.files import read_json

BATCH = 256
SETTINGS = {
    # The engine's core is in this process: its schedule is then the same each time, which another process' is not.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB; without it, most of the machine's memory
}


class VllmEngine:
    """The model in `folder`, loaded with config_file; an adapter is put on the model in `base`."""

    name = "vllm"

    def __init__(
        self,
        folder: Path,
        config_file: Path,
        base: Path | None,
        positions: int,
        batch: int | None = None,
        tensor_parallel: int = 1,
        seed: int = 0,
    ):
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            import vllm
            from vllm import EngineArgs, LLMEngine
            from vllm.platforms import current_platform
        except ImportError as error:
            raise Failure(
                f"this Python has no vLLM ({error}); build the one for a CPU by scripts/vllm-cpu.sh, or take the image"
            ) from None
        self.version, self.width, self.positions = vllm.__version__, batch or BATCH, positions
        self.cpu = current_platform.is_cpu()
        self.device = "cpu" if self.cpu else current_platform.get_device_name()
        self.tensor_parallel = tensor_parallel
        adapter = folder / "adapter_config.json"
        self.adapter: Any = None
        options: dict[str, Any] = {}
        if adapter.is_file():
            if base is None:
                raise Failure(f"{folder} is an adapter, and no model is known for it; report it, this must not be")
            from vllm.lora.request import LoRARequest

            self.adapter = LoRARequest("adapter", 1, str(folder))
            options = {"enable_lora": True, "max_lora_rank": lora_rank(read_json(adapter)["r"])}
        if self.cpu:
            # On a CPU a prompt that is computed in parts ends the engine when its request has a seed: "CPU Generator
            # does not use offset". Compiling takes longer than it saves.
            step = max(positions, self.width)  # vLLM takes no fewer than either
            options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": step, "enforce_eager": True}
        self.view = view(base if self.adapter and base else folder, config_file)
        arguments = EngineArgs(
            model=self.view.name,
            tokenizer=str(base or folder),
            generation_config="vllm",  # not the model's own
            dtype=saved_dtype(config_file),
            seed=seed,
            max_model_len=positions,
            max_num_seqs=self.width,
            tensor_parallel_size=tensor_parallel,
            disable_log_stats=True,
            **options,
        )
        try:
            self.engine = LLMEngine.from_engine_args(arguments)
        except (RuntimeError, ValueError) as error:
            self.view.cleanup()
            raise Failure(
                f"vLLM cannot load {folder} ({first_line(error)}); give it a GPU with room, or set EVAL_BATCH to fewer"
            ) from None
        self.vocabulary = Vocabulary(self.engine.get_tokenizer())

    def facts(self) -> dict[str, Any]:
        import torch

        return {
            "engine": self.name,
            "version": self.version,
            "torch": torch.__version__,
            "device": self.device,
            "dtype": str(self.engine.model_config.dtype).removeprefix("torch."),
            "tensor_parallel": self.tensor_parallel,
            "max_model_len": self.positions,
            "batch": self.width,
        }

    def run(self, source: Iterator[Request | None], sampling: Sampling) -> Iterator[Finished | None]:
        held: dict[str, Request] = {}
        inner: dict[str, str] = {}
        more, count = True, 0
        try:
            while more or held:
                while more and len(held) < self.width:
                    try:
                        request = next(source)
                    except StopIteration:
                        more = False
                        break
                    if request is None:
                        break
                    name = str(count)
                    count += 1
                    inner[name] = self.engine.add_request(
                        name,
                        {"prompt_token_ids": list(request.prompt)},
                        self.parameters(request, sampling),
                        lora_request=self.adapter,
                    )
                    held[name] = request
                finished = [output for output in (self.engine.step() if held else ()) if output.finished]
                if not finished:
                    yield None
                for output in finished:
                    request, made = held.pop(output.request_id), output.outputs[0]
                    del inner[output.request_id]
                    cut = made.finish_reason == "length"
                    yield request, self.vocabulary.completion(list(made.token_ids), sampling, request.stop, cut)
        except RuntimeError as error:  # out of memory, or a dead worker
            raise Interrupted(
                f"vLLM stopped ({first_line(error)}); run it again: what is answered is kept. "
                "If it stops again, set EVAL_BATCH to fewer"
            ) from None
        except ValueError as error:
            raise Failure(f"vLLM refuses a request ({first_line(error)}); change what the recipe asks for") from None
        finally:
            if inner:
                self.engine.abort_request(list(inner.values()), internal=True)

    def parameters(self, request: Request, sampling: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        single, texts = self.vocabulary.stops(request.stop)
        return SamplingParams(
            n=1,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            seed=request.seed,
            max_tokens=request.max_tokens,
            stop=texts or None,
            stop_token_ids=[*sampling.ends, *single],
            ignore_eos=True,  # the ends of a turn are ours
            detokenize=bool(texts),
            skip_special_tokens=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def close(self) -> None:
        """Free the memory, so that the next model has it."""
        core = self.engine.engine_core
        del self.engine
        core.shutdown()
        self.view.cleanup()


def view(folder: Path, config_file: Path) -> "tempfile.TemporaryDirectory[str]":
    """A folder that shows `folder`, with config_file as its config.json: vLLM has no other way to be given one."""
    made = tempfile.TemporaryDirectory(prefix="vllm-")
    for file in folder.iterdir():
        if file.name != "config.json":
            (Path(made.name) / file.name).symlink_to(file.resolve())
    shutil.copyfile(config_file, Path(made.name) / "config.json")
    return made


def saved_dtype(config_file: Path) -> str:
    """As the weights are: left to itself, vLLM rounds float32 to 16 bits."""
    config = read_json(config_file)
    return config.get("dtype") or config.get("torch_dtype") or "auto"


def lora_rank(rank: int) -> int:
    """The smallest bound on ranks that vLLM has a kernel for."""
    return next(bound for bound in (8, 16, 32, 64, 128, 256, 320, 512) if rank <= bound)


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
