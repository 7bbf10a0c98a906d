"""Control tokens inside texts: what a tokenizer would read as its own sign, such as <|im_end|> in a problem.

Neither engines nor servers tell such a text from what the template writes: a turn ends where it stands. They are
counted, not removed: the published scripts keep them.
"""

import re
from collections.abc import Iterable, Mapping

# The form of Qwen2.5's and Llama 3's special tokens, all of them. <think> and <tool_call> are words of the answers.
TOKEN = re.compile(r"<\|[A-Za-z0-9_]+\|>")
OPENING = re.compile(r"<\|")
LISTED = 16  # different ones of a kind of text that are told apart
Counts = dict[str, int]


def may_hold(text: str) -> bool:
    """Whether "<|" is in it. One character is found five times as fast as two, where it is rare."""
    at = -1
    for _ in range(len(text) // 400 + 4):
        at = text.find("<", at + 1)
        if at < 0:
            return False
        if text[at + 1 : at + 2] == "|":
            return True
    return OPENING.search(text, at) is not None


def add(counts: Counts, kind: str, texts: Iterable[str]) -> None:
    """Count the texts that hold each token, under "kind token". kind: problem or answer, say."""
    for text in texts:
        if may_hold(text):
            for token in sorted(set(TOKEN.findall(text))):
                name = f"{kind} {token}"
                if name not in counts and sum(other.startswith(f"{kind} ") for other in counts) >= LISTED:
                    name = f"{kind} others"
                counts[name] = counts.get(name, 0) + 1


def merge(all_of: Iterable[Mapping[str, int]]) -> Counts:
    """The sum of some counts, the most frequent first."""
    found: Counts = {}
    for counts in all_of:
        for name, count in counts.items():
            found[name] = found.get(name, 0) + count
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def sentence(counts: Mapping[str, int]) -> str:
    """What the log says of counts; empty when there are none."""
    if not counts:
        return ""
    each = []
    for name, count in counts.items():
        kind, _, token = name.partition(" ")
        each.append(f"{token} in {count:,} {kind}s")
    return f"control tokens inside texts, which trainer and server read as their own: {', '.join(each)}"
