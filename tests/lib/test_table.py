"""Tables, by hand."""

from sft.lib import table

ROWS = [("what", "n", "note"), ("a", "1,000", ""), ("longer", "7", "it is")]


def test_text() -> None:
    assert table.text(ROWS) == "what    n      note\na       1,000\nlonger  7      it is"
    assert table.text(ROWS, right=True) == "what        n  note\na       1,000\nlonger      7  it is"


def test_markdown() -> None:
    assert table.markdown(ROWS) == [
        "| what | n | note |",
        "|---|---|---|",
        "| a | 1,000 |  |",
        "| longer | 7 | it is |",
    ]
