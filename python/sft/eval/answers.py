"""A model's answers: greedy generation with transformers, in batches."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.eval.prompts import KINDS, Row, Task
from sft.lib.errors import Failure, Interrupted
from sft.lib.files import read_jsonl
from sft.lib.progress import Progress, log

BATCH = {"random": 50, "hub": 8}  # by BASE_SOURCE
# A turn may also end with these, where the tokenizer has them; the untouched base of Llama 3.1 does so.
ALSO_ENDS = {"llama3": ("<|end_of_text|>", "<|eom_id|>")}


# --- answers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """How answers are made. temperature None: greedily; batch: prompts at a time."""

    max_tokens: int
    end: str
    also: tuple[str, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0
    batch: int = BATCH["random"]

    def __str__(self) -> str:
        if self.temperature is None:
            return "greedy"
        return f"temperature {self.temperature:g}, top_p {self.top_p:g}, seed {self.seed}"


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


def ends_of(tokenizer: Any, settings: Settings) -> list[int]:
    """Ids of the tokens that end an answer. Raises Failure when the trained one is none of the tokenizer's."""
    vocabulary = tokenizer.get_vocab()
    if settings.end not in vocabulary:
        raise Failure(f"{tokenizer.name_or_path}: {settings.end} is no token of it, so no answer would end; check CHAT")
    return [vocabulary[token] for token in (settings.end, *settings.also) if token in vocabulary]


def generate(
    model: Any, tokenizer: Any, prompts: list[str], settings: Settings, have: set[int] | None = None
) -> Iterator[dict[int, tuple[str, bool]]]:
    """place -> (text, truncated) of each prompt's answer, without the token that ends it, a batch at a time.

    Prompts of similar length share a batch, the longest ones first. have: places that need not be answered; a batch of
    which all are there is left out, and sampling begins anew with each, so what is left out changes nothing.
    """
    import torch
    from transformers import GenerationConfig

    ends = ends_of(tokenizer, settings)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = ends[0]
    sampled: dict[str, Any] = {"do_sample": False}
    if settings.temperature is not None:  # top_k 0: the library would sample from the best 50 only
        sampled = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=settings.max_tokens, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, **sampled
    )
    encoded = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    order = sorted(range(len(prompts)), key=lambda place: -len(encoded[place]))
    for first in range(0, len(order), settings.batch):
        places = order[first : first + settings.batch]
        if have and have.issuperset(places):
            continue
        batch = tokenizer.pad({"input_ids": [encoded[place] for place in places]}, return_tensors="pt")
        torch.manual_seed(settings.seed + first)
        try:
            with torch.inference_mode():
                output = model.generate(**batch.to(model.device), generation_config=config)
        except torch.OutOfMemoryError:
            raise Interrupted(
                f"{len(places)} answers of up to {settings.max_tokens:,} tokens at a time do not fit on the GPU; "
                "set EVAL_BATCH to fewer, and run it again: what is answered is kept"
            ) from None
        answers = {}
        for place, ids in zip(places, output[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            stop = next((n for n, token in enumerate(ids) if token in ends), None)
            answers[place] = (tokenizer.decode(ids[:stop], clean_up_tokenization_spaces=False), stop is None)
        yield answers


def answer(task: Task, target: Path, load_model: Callable[[], Any], tokenizer: Any, settings: Settings) -> list[Row]:
    """The graded rows of a task, from `target` if they are there; else answers are made, and kept as they come."""
    part = target.with_suffix(".part")
    if target.is_file():
        part.unlink(missing_ok=True)
        return list(read_jsonl(target))
    answers: dict[int, tuple[str, bool]] = {}
    if part.is_file():
        answers = {row["place"]: (row["text"], row["truncated"]) for row in read_jsonl(part, torn_tail=True)}
        log(f"eval: {target.stem}: going on with an interrupted run, {len(answers)} answers are there")
        write_rows(part, as_rows(answers))
    progress = Progress(f"eval: {target.stem} answers", len(task.prompts))
    with open(part, "a", encoding="utf-8") as file:
        for made in generate(load_model(), tokenizer, task.prompts, settings, set(answers)):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in as_rows(made))
            file.flush()
            answers |= made
            progress.show(len(answers))
    rows = []
    for place, row in enumerate(task.rows):
        text, truncated = answers[place]
        rows.append(row | {"generation": text, "truncated": truncated} | KINDS[task.kind].grade(row, text))
    whole = target.with_suffix(".whole")
    write_rows(whole, rows)
    whole.rename(target)
    part.unlink()
    return rows


def as_rows(answers: dict[int, tuple[str, bool]]) -> list[Row]:
    return [{"place": place, "text": text, "truncated": cut} for place, (text, cut) in answers.items()]


def write_rows(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
