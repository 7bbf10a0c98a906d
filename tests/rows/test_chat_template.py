"""One rendering of chat templates, whatever the day."""

import json
import re
from pathlib import Path

import pytest
from test_sft_data import save_tokenizer

from conftest import ROOT
from sft.rows import chat

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER = {"role": "user", "content": "x"}


def test_only_one_file_renders_with_transformers() -> None:
    """A second caller would take today's date where a template asks for it."""
    calls = re.compile(r"\.apply_chat_template\(")
    code = {str(file.relative_to(ROOT / "python")): file.read_text() for file in (ROOT / "python").rglob("*.py")}
    assert [name for name, text in code.items() if calls.search(text)] == ["sft/rows/chat.py"]
    renders = re.compile(r"render_jinja_template|from_string\(")
    assert [name for name, text in code.items() if renders.search(text)] == ["sft/rows/chat.py"]


def row(system: str | None) -> list[dict[str, str]]:
    return [*([] if system is None else [{"role": "system", "content": system}]), {"role": "user", "content": "q"}]


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
@pytest.mark.parametrize("system", ["", 'Say "no" \\ {{ or }} not\n', "détaillé"])
def test_a_chat_without_a_system_message_gets_that_of_the_rows(tmp_path: Path, system: str, file: str) -> None:
    from transformers import AutoTokenizer

    folder = save_tokenizer(tmp_path / "t", CHATML if file != "chat_template.jinja" else None)
    if file == "chat_template.jinja":
        (folder / file).write_text(CHATML)
    said = chat.give_default(folder, [row(system)] * 3)
    assert said == f"the base's, and before it the rows' system message {system!r} for chats that have none"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True) == prompt
    own = tokenizer.apply_chat_template([{"role": "system", "content": "Own."}, USER], tokenize=False)
    assert own == "<|im_start|>system\nOwn.<|im_end|>\n<|im_start|>user\nx<|im_end|>\n"
    assert chat.without_default(tokenizer.chat_template) == CHATML
    # Done twice it stays as it is.
    assert "renders a chat without a system message as the rows are" in chat.give_default(folder, [row(system)])
    assert AutoTokenizer.from_pretrained(folder).chat_template == tokenizer.chat_template


@pytest.mark.parametrize(
    "rows,template,words",
    [
        ([row(""), row("other")], CHATML, "do not all have the same system message"),
        ([row(""), row(None)], CHATML, "do not all have the same system message"),
        ([row(None)], CHATML, "do not all have the same system message"),
        ([None], CHATML, "do not all have the same system message"),
        ([], CHATML, "do not all have the same system message"),
        ([row("You are a helpful assistant.")], CHATML, "renders a chat without a system message as the rows are"),
        ([row("")], None, "none: the base's tokenizer has none"),
        ([row("")], "{{ raise_exception('no') }}", "fails on the rows' turns (no)"),
    ],
)
def test_where_it_is_left_alone_it_says_why(tmp_path: Path, rows: list, template: str | None, words: str) -> None:
    folder = save_tokenizer(tmp_path / "t", template)
    before = json.loads((folder / "tokenizer_config.json").read_text())
    assert words in chat.give_default(folder, rows)
    assert json.loads((folder / "tokenizer_config.json").read_text()) == before
