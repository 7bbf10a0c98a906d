"""Imports that a process can do without: what one without torch reads is what one with it reads."""

import json
import sys

import pytest

from conftest import Repo, ok
from sft.lib.errors import hidden

PROGRAM = """
import json, sys
sys.path.insert(0, "python")
from sft.lib.errors import without_torch
folder, without = sys.argv[1], sys.argv[2] == "without"
if without:
    without_torch()
from transformers import AutoTokenizer
from sft.model.rope import loaded_rope
tokenizer = AutoTokenizer.from_pretrained(folder)
turns = [{"role": "system", "content": ""}, {"role": "user", "content": "1 + 1 =\\n"}]
found = [
    type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.special_tokens_map, loaded_rope(folder),
    tokenizer.encode("What is 12 plus 30?<|im_end|> \\u00e9\\u4e2d", add_special_tokens=False),
    tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True),
]
assert ("torch" in sys.modules) != without
import torch
print(json.dumps([*found, float(torch.ones(2).sum())]))
"""


def test_a_process_without_torch_reads_the_same(prepared: Repo) -> None:
    with_, without = (
        prepared.call(sys.executable, "-c", PROGRAM, prepared.work / "models/mini", word)
        for word in ("with", "without")
    )
    assert json.loads(ok(without)) == json.loads(ok(with_)) and without.stderr == ""


def test_a_hidden_module_is_missing_only_meanwhile() -> None:
    sys.modules.pop("this", None)
    with pytest.raises(ImportError), hidden("this"):
        import this  # noqa: F401
    assert "this" not in sys.modules
    with hidden("json"):  # imported already, and in use
        import json as again
    assert again is json and sys.modules["json"] is json
