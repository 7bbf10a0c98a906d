"""A tokenizer's chat template, rendered so that the day on which it is done does not matter.

Some templates (Llama 3.2's) write today's date into the system block, by strftime_now; Llama 3.1's takes date_string
and has a default of its own. Every text that is rendered here, of rows, prompts and checks, has the day DAY.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any

Message = dict[str, str]

# The date that Llama 3.1's template has of its own.
DAY = date(2024, 7, 26)
# Variables of the template, which go before transformers' own of the same name.
PINNED: dict[str, Any] = {"date_string": DAY.strftime("%d %b %Y"), "strftime_now": DAY.strftime}


def render(tokenizer: Any, messages: Sequence[Message], prompt: bool = False) -> str:
    """The conversation as text; prompt: with the header of the answer that is to come. Raises TemplateError."""
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt, **PINNED)
