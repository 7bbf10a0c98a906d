"""A chat template, applied to many rows, and the tokens that it makes of them."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.lib.errors import Failure
from sft.lib.files import read_json
from sft.rows.chat import Message, check_template, render_text


@dataclass(frozen=True)
class Rules:
    """What the recipe says of the filters; limits are tokens, and a row of just so many stays."""

    used_in: str
    max_tokens: int
    max_completion: int
    published: bool


# --- rendering ---------------------------------------------------------------------------------------------------


class Template:
    """The chat template of a tokenizer."""

    def __init__(self, folder: Path):
        self.text, self.special = template_of(folder)
        try:
            check_template(self.text)
        except ValueError as error:
            raise Failure(f"{folder}: its chat template cannot be read ({error}); fetch it again") from None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps([self.text, self.special], sort_keys=True).encode()).hexdigest()

    def render(self, messages: list[Message], prompt: bool = False) -> str:
        """The conversation as text; prompt: with the header of the answer that is to come. Raises ValueError."""
        return render_text(self.text, messages, prompt, **self.special)

    def split(self, messages: list[Message], answer: str) -> tuple[str, str]:
        """(prompt, completion) of a conversation and its answer, which together are its whole rendering.

        model_filters.py:306-331. Raises ValueError when the prompt is not what the whole begins with.
        """
        prompt = self.render(messages, prompt=True)
        whole = self.render([*messages, {"role": "assistant", "content": answer}])
        if not whole.startswith(prompt):
            raise ValueError("the chat template renders its prompt differently when the answer follows")
        return prompt, whole[len(prompt) :]


def template_of(folder: Path) -> tuple[str, dict[str, str]]:
    """(chat template, special tokens by name) of a tokenizer's folder. Raises Failure when it has no template."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            config |= read_json(folder / name)
    found = config.get("chat_template")
    if isinstance(found, list):  # named ones, of which the default is taken
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    if (folder / "chat_template.jinja").is_file():
        found = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if not isinstance(found, str) or not found.strip():
        raise Failure(f"{folder} has no chat template; set TOKENIZER to the folder of a model that chats")
    special = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in config.items()
        if re.fullmatch(r"(bos|eos|unk|sep|pad|cls|mask)_token", name) and value is not None
    }
    return found, special


# --- tokens ------------------------------------------------------------------------------------------------------


@dataclass
class Tokens:
    """Counts tokens of rendered rows as a variant does; prompt and completion are tokenized once."""

    counter: Any
    template: Template
    published: bool
    heads: dict[str, int] = field(default_factory=dict)

    def limits(self, rules: Rules, prompt: str, completion: str, answer: str) -> tuple[str | None, int, int]:
        """(the filter by which a row goes, tokens in all, tokens of the completion); counts of a row that goes are 0.

        model_filters.py:150-178, 234-254. answer: the assistant's message, which completion renders. Raises ValueError.
        """
        body = self.counter.rendered(completion, rules.max_tokens)
        if body is None:  # the prompt need not be counted
            return "total_tokens", 0, 0
        if not self.published or self.parts_add_up(prompt, completion):
            total = self.counter.rendered(prompt) + body
        else:
            total = self.counter.rendered(prompt + completion)
        if self.published:
            total += self.counter.around
            body = self.alone(completion, answer, body)
        if not 0 < total <= rules.max_tokens:
            return "total_tokens", 0, 0
        if not 0 < body <= rules.max_completion:
            return "completion_tokens", 0, 0
        return None, total, body

    def parts_add_up(self, prompt: str, completion: str) -> bool:
        """Whether the two together have as many tokens as they have apart: a line's end is also that of a token."""
        return self.counter.cached and prompt.endswith("\n") and not completion[:1].isspace()

    def alone(self, completion: str, answer: str, body: int) -> int:
        """Tokens of the answer rendered without what it answers, as published. body: those of the completion."""
        whole = self.template.render([{"role": "assistant", "content": answer}])
        head = whole.removesuffix(completion)
        if head == whole or not self.parts_add_up(head, completion):
            return self.counter.rendered(whole) + self.counter.around
        if head not in self.heads:
            self.heads[head] = self.counter.rendered(head)
        return self.heads[head] + body + self.counter.around
