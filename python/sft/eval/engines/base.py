"""What an engine is: it takes requests as it has room for them, and yields each when it is answered.

An engine is given tokens, and every sampling parameter: what a model's folder says of generation is never heeded.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from sft.lib.errors import Failure


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen, the same for all requests of a run. temperature 0: greedily; ends: ids that end a turn."""

    temperature: float
    ends: tuple[int, ...]
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """key: names it, and no other. max_tokens: at least 1. stop: strings to end at, beside the ends of a turn."""

    key: tuple[Any, ...]
    prompt: tuple[int, ...]
    max_tokens: int
    seed: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    """What an engine wrote. tokens: how many it generated; ids: they themselves, where prompts are tokens.

    text and ids end alike: either both hold the stop string, or neither. stop: the stop string that was met; "" when
    the model ended its turn; None when the engine does not tell which of the two it was. reason "length": it was cut.
    """

    text: str
    tokens: int
    reason: Literal["stop", "length"]
    stop: str | None = None
    ids: Sequence[int] = ()


Finished = tuple[Request, Completion]


class Engine(Protocol):
    """width: requests that it works on at once. positions: tokens that a prompt and its answer may have together."""

    name: str
    width: int
    positions: int

    def facts(self) -> dict[str, Any]:
        """What made the answers: engine, version, device and so on."""

    def run(self, source: Iterator[Request | None], sampling: Sampling) -> Iterator[Finished | None]:
        """Answers in the order in which they are finished.

        None from the source: there is nothing now, but more may come. None yielded: nothing was finished in this round.
        Raises Interrupted when it cannot go on.
        """

    def close(self) -> None: ...


def seed_of(seed: int, benchmark: str, problem: str, sample: int, turn: int = 0) -> int:
    """The seed of one request, below 2**31: it depends on nothing but what the request is for."""
    name = json.dumps([seed, benchmark, problem, sample, turn])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1


def ends_of(tokenizer: Any, tokens: Sequence[str]) -> tuple[int, ...]:
    """Ids of the tokens that end a turn. Raises Failure when the first, which was trained, is none of the tokenizer's.

    The others are optional: the untouched base of Llama 3.1 ends with <|end_of_text|>, Qwen2.5's with <|endoftext|>.
    """
    vocabulary = tokenizer.get_vocab()
    if tokens[0] not in vocabulary:
        raise Failure(f"{tokenizer.name_or_path}: {tokens[0]} is not one of its tokens; check CHAT")
    return tuple(vocabulary[token] for token in tokens if token in vocabulary)


class Vocabulary:
    """Between tokens and text, the same for every engine: how a stop is asked for, and what an answer's tokens say."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.ids: dict[str, int] = tokenizer.get_vocab()

    def stops(self, stop: Sequence[str]) -> tuple[dict[int, str], list[str]]:
        """(id -> stop string) of those that are one token, and the others.

        Qwen2.5's </tool_call> is one. Then nothing can be glued to it, and the engine looks for no text.
        """
        single = {self.ids[text]: text for text in stop if text in self.ids}
        return single, [text for text in stop if text not in self.ids]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def completion(self, ids: Sequence[int], sampling: Sampling, stop: Sequence[str], cut: bool) -> Completion:
        """Of all tokens that were generated, the one that ends the turn among them. cut: by the limit of tokens."""
        single, texts = self.stops(stop)
        last = ids[-1] if ids and not cut else None
        ended = last in sampling.ends or last in single
        kept = ids[:-1] if ended else ids
        text = self.decode(kept)
        if met := [(text.find(string), string) for string in texts if string in text]:
            place, string = min(met)
            whole = text[: place + len(string)]  # the last token may say more than the string
            return Completion(whole, len(ids), "stop", string, kept if whole == text else self.encode(whole))
        met_end = single.get(ids[-1], "") if ended else None
        return Completion(text, len(ids), "length" if cut else "stop", met_end, kept)
