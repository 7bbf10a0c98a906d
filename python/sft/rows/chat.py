"""A tokenizer's chat template, rendered so that the day on which it is done does not matter.

Some templates (Llama 3.2's) write today's date into the system block, by strftime_now; Llama 3.1's takes date_string
and has a default of its own. Every text that is rendered here, of rows, prompts and checks, has the day DAY.
"""

import json
import re
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from sft.lib.files import read_json, write_json

Message = dict[str, str]

# The date that Llama 3.1's template has of its own.
DAY = date(2024, 7, 26)
# Variables of the template, which take precedence over transformers' own of the same name.
PINNED: dict[str, Any] = {"date_string": DAY.strftime("%d %b %Y"), "strftime_now": DAY.strftime}


def render(tokenizer: Any, messages: Sequence[Message], prompt: bool = False) -> str:
    """The conversation as text; prompt: with the header of the answer that is to come. Raises TemplateError."""
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt, **PINNED)


def render_text(template: str, messages: Sequence[Any], prompt: bool = False, **variables: Any) -> str:
    """As `render`, without a tokenizer, whose loading takes torch and the memory for it.

    variables: of the template, special tokens among them. Raises ValueError where the template refuses the messages.
    """
    import jinja2
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        rendered, _ = render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=prompt, **PINNED | variables
        )
    except (jinja2.TemplateError, TypeError) as error:
        raise ValueError(f"the chat template refuses it ({str(error)[:120]})") from None
    return rendered[0]


def check_template(template: str) -> None:
    """Raises ValueError for a template that cannot be read."""
    import jinja2
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        render_jinja_template([], chat_template=template)
    except jinja2.TemplateError as error:
        raise ValueError(str(error).partition("\n")[0][:100]) from None


# --- a chat without a system message --------------------------------------------------------------------------------

# Before a template: a chat without a system message has this one, in place of the template's own.
DEFAULT = (
    "{%- if not messages or messages[0]['role'] != 'system' %}"
    "{%- set messages = [{'role': 'system', 'content': SYSTEM}] + messages %}{%- endif %}"
)
GIVEN = re.compile(r"\A" + re.escape(DEFAULT).replace("SYSTEM", r'"(?:[^"\\]|\\.)*"'))
USER = [{"role": "user", "content": "x"}]


def without_default(template: str | None) -> str | None:
    """A template as it was before `give_default`."""
    return template and GIVEN.sub("", template)


def common_system(chats: Iterable[Sequence[Message] | None]) -> str | None:
    """The system message that all chats begin with; None where one has none, or another, and where there is no chat."""
    found = {chat[0]["content"] if chat and chat[0]["role"] == "system" else None for chat in chats}
    return found.pop() if len(found) == 1 else None


def give_default(folder: Path, chats: Iterable[Sequence[Message] | None]) -> str:
    """Make the template in `folder` render a chat without a system message as the trained rows are; says what was done.

    The rows of most recipes have an empty system turn, where Qwen2.5's own template writes "You are a helpful
    assistant." and Qwen2.5-Math's asks for steps: the model would be asked in a way that it was not trained in.
    chats: the turns of some rows, None for one that is not turns.
    """
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    tokenizer, system = AutoTokenizer.from_pretrained(folder), common_system(chats)
    if not tokenizer.chat_template:
        return "none: the base's tokenizer has none"
    if system is None:
        return "the base's: the rows do not all have the same system message; send one"
    asked = [{"role": "system", "content": system}, *USER]
    try:
        wanted = render(tokenizer, asked, True)
        if render(tokenizer, USER, True) == wanted:
            return "the base's: it renders a chat without a system message as the rows are"
        text = DEFAULT.replace("SYSTEM", json.dumps(system, ensure_ascii=False)) + tokenizer.chat_template
        tokenizer.chat_template = text
        if render(tokenizer, USER, True) != wanted or render(tokenizer, asked, True) != wanted:
            return f"the base's, which cannot be given the rows' system message {system!r}; send it"
    except (TemplateError, TypeError) as error:
        return f"the base's, which fails on the rows' turns ({str(error)[:80]})"
    config = folder / "tokenizer_config.json"
    if (folder / "chat_template.jinja").is_file():
        (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    elif isinstance(read_json(config).get("chat_template"), str):
        write_json(config, read_json(config) | {"chat_template": text})
    else:
        return f"the base's, one of several, which were not given the rows' system message {system!r}; send it"
    return f"the base's, and before it the rows' system message {system!r} for chats that have none"


END_OF_TURN = "<|im_end|>"
# The token that ends a turn, by the recipe's CHAT; what this file renders is ChatML.
ENDS = {"chatml": END_OF_TURN, "llama3": "<|eot_id|>", "none": "<|end_of_text|>"}


def chatml(user: str) -> str:
    """The prompt as Qwen2.5's chat template renders it with an explicit, empty system message."""
    return f"<|im_start|>system\n{END_OF_TURN}\n<|im_start|>user\n{user}{END_OF_TURN}\n<|im_start|>assistant\n"
