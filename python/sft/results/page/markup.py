"""Text as HTML. Whatever comes from a model, a data set or a file is written through these."""

import html
import json
import re
from typing import Any

# HTML has no place for these, or a browser would act on them: controls, and what turns the direction of writing.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def escaped(text: object) -> str:
    """Any value as text between tags, or as a quoted attribute."""
    return html.escape(HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", str(text)))


def data(value: Any) -> str:
    """A value as the JSON of a <script> that is data: ASCII, and without what could end the element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def fill(template: str, parts: dict[str, str]) -> bytes:
    """A template with {{name}} replaced, in one pass: what is put in is not looked at again. ASCII throughout."""
    made = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)
    return made.encode("ascii", "xmlcharrefreplace")
