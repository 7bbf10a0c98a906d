"""One rendering of chat templates, whatever the day."""

import re

from conftest import ROOT


def test_only_one_file_renders_with_transformers() -> None:
    """A second caller would take today's date where a template asks for it."""
    calls = re.compile(r"\.apply_chat_template\(")
    assert [file.name for file in sorted((ROOT / "python").glob("*.py")) if calls.search(file.read_text())] == [
        "chat_template.py"
    ]
    renders = re.compile(r"render_jinja_template|from_string\(")
    others = {
        file.name: file.read_text() for file in (ROOT / "python").glob("*.py") if renders.search(file.read_text())
    }
    # The reasoning demo renders a template of its own, in which there is no clock.
    assert sorted(others) == ["curation.py", "sft_data.py", "tiny_reasoning.py"]
    assert [name for name, text in sorted(others.items()) if "PINNED" in text] == ["curation.py", "sft_data.py"]
    assert "strftime" not in others["tiny_reasoning.py"]
