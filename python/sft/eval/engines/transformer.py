"""Answers by transformers, a batch at a time: needs no other packages, and is slow where answers are long."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sft.eval.engines.base import Finished, Request, Sampling, Vocabulary
from sft.lib.errors import Failure, Interrupted

BATCH = 8
WINDOW = 32  # batches that are sorted by length at a time


def load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, padding_side="left")


def load(folder: Path, config_file: Path, start: Path | None = None) -> Any:
    """A model, ready to generate; an adapter is attached to the model in `start`, wherever it says it belongs."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    adapter = (folder / "adapter_config.json").is_file()
    if adapter and start is None:
        raise Failure(f"{folder} is an adapter, and no model is known for it; report it, this must not be")
    config = AutoConfig.from_pretrained(config_file)
    weights = start if adapter else folder
    model = AutoModelForCausalLM.from_pretrained(weights, config=config, dtype="auto")
    # The model's own settings would fill what ours leave open, such as a repetition penalty.
    model.generation_config = GenerationConfig()
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


class TransformersEngine:
    """Requests of similar length share a batch, the longest ones first.

    Each request draws from a generator of its own. So a sample does not depend on what else is in its batch, except for
    the last bits of the logits, which the shape of a batch changes.
    """

    name = "transformers"

    def __init__(self, model: Any, tokenizer: Any, positions: int, batch: int = BATCH):
        self.model, self.vocabulary, self.positions, self.width = model, Vocabulary(tokenizer), positions, batch
        self.pad = tokenizer.pad_token_id

    def facts(self) -> dict[str, Any]:
        import torch
        import transformers

        return {
            "engine": self.name,
            "version": transformers.__version__,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if self.model.device.type == "cuda" else self.model.device.type,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "batch": self.width,
        }

    def run(self, source: Iterator[Request | None], sampling: Sampling) -> Iterator[Finished | None]:
        more = True
        while more:
            window: list[Request] = []
            for request in islice(source, self.width * WINDOW):
                if request is None:
                    break
                window.append(request)
            else:
                more = len(window) == self.width * WINDOW
            if not window:
                yield None
            # What is stopped at is one setting for a batch.
            window.sort(key=lambda request: (request.stop, -len(request.prompt)))
            while window:
                size = next((n for n, other in enumerate(window) if other.stop != window[0].stop), len(window))
                batch, window = window[: min(size, self.width)], window[min(size, self.width) :]
                yield from self.answer(batch, sampling)

    def answer(self, batch: list[Request], sampling: Sampling) -> list[Finished]:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        single, texts = self.vocabulary.stops(batch[0].stop)
        ends = [*sampling.ends, *single]
        most, longest = max(request.max_tokens for request in batch), max(len(request.prompt) for request in batch)
        config = GenerationConfig(
            max_new_tokens=most,
            eos_token_id=ends,
            pad_token_id=ends[0] if self.pad is None else self.pad,
            repetition_penalty=None if sampling.repetition_penalty == 1 else sampling.repetition_penalty,
            do_sample=False,  # what is drawn at random is put into the logits, see `draws`
        )
        rows = [[0] * (longest - len(request.prompt)) + list(request.prompt) for request in batch]
        mask = [[0] * (longest - len(request.prompt)) + [1] * len(request.prompt) for request in batch]
        device, strings = self.model.device, Strings(self.vocabulary, texts, longest)
        try:
            with torch.inference_mode():
                output = self.model.generate(
                    input_ids=torch.tensor(rows, device=device),
                    attention_mask=torch.tensor(mask, device=device),
                    generation_config=config,
                    logits_processor=LogitsProcessorList(draws(batch, sampling, device)),
                    stopping_criteria=StoppingCriteriaList([strings.met] if texts else []),
                )
        except torch.OutOfMemoryError:
            raise Interrupted(
                f"{len(batch)} answers of up to {most:,} tokens at a time do not fit on the GPU; "
                "set EVAL_BATCH to fewer, and run it again: what is answered is kept"
            ) from None
        made = []
        for row, (request, ids) in enumerate(zip(batch, output[:, longest:].tolist(), strict=True)):
            ids = ids[: min(request.max_tokens, strings.lengths.get(row, most))]  # what follows is padding
            stop = next((n for n, token in enumerate(ids) if token in ends), None)
            ids = ids if stop is None else ids[: stop + 1]
            made.append((request, self.vocabulary.completion(ids, sampling, request.stop, stop is None)))
        return made

    def close(self) -> None:
        self.model = None


class Strings:
    """Stops a batch's rows at strings, and remembers at which length. longest: tokens of the prompts."""

    def __init__(self, vocabulary: Vocabulary, texts: list[str], longest: int):
        self.vocabulary, self.texts, self.longest = vocabulary, texts, longest
        self.tail = 1 + max((len(text.encode()) for text in texts), default=0)  # tokens; each has a byte at least
        self.lengths: dict[int, int] = {}

    def met(self, ids: Any, _: Any, **options: Any) -> Any:
        import torch

        length = ids.shape[1] - self.longest
        for row, tail in enumerate(ids[:, -min(self.tail, length) :].tolist()):
            text = self.vocabulary.decode(tail)
            if row not in self.lengths and any(string in text for string in self.texts):
                self.lengths[row] = length
        return torch.tensor([row in self.lengths for row in range(len(ids))], device=ids.device)


def draws(batch: list[Request], sampling: Sampling, device: Any) -> Iterator[Any]:
    """Processors of logits after which the largest one is a sample; none where decoding is greedy.

    The largest of logits with Gumbel noise is a draw from their softmax, and each row's noise has a generator.
    """
    import torch
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    if sampling.temperature == 0:
        return
    yield TemperatureLogitsWarper(float(sampling.temperature))
    if sampling.top_k > 0:
        yield TopKLogitsWarper(sampling.top_k)
    if sampling.top_p < 1:
        yield TopPLogitsWarper(sampling.top_p)
    if sampling.min_p > 0:
        yield MinPLogitsWarper(sampling.min_p)
    generators = [torch.Generator(device).manual_seed(request.seed) for request in batch]

    def noise(_: Any, scores: Any) -> Any:
        drawn = torch.stack(
            [
                torch.empty_like(row, dtype=torch.float32).exponential_(generator=generator)
                for row, generator in zip(scores, generators, strict=True)
            ]
        )
        return scores.float() - drawn.log()

    yield noise
