"""Tool-integrated reasoning: the model writes code, sees what it prints out, and goes on.

The loop of NeMo-Skills, in two forms: what the released models were measured with (0f7bd73
nemo_skills/inference/server/code_execution_model.py, prompt/template/openmath-instruct.yaml, code_execution/utils.py),
and today's (8b18f39 nemo_skills/inference/model/code_execution.py:122-222, prompt/code_tags/openmath.yaml).

The engine is a function: text or tokens in, text out. So vLLM, transformers and any completions server are driven
alike.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sft.eval.engines.base import Completion
from sft.eval.protocols.read import Code
from sft.eval.sandbox.session import Result

Prompt = str | list[int]


class Complete(Protocol):
    """An engine. stop: strings to end at, beside the ends of a turn, which the engine knows; max_tokens: at least 1."""

    def __call__(self, prompt: Prompt, stop: Sequence[str], max_tokens: int) -> Completion: ...


class Sandbox(Protocol):
    def run(self, code: str) -> Result: ...


def code_of(text: str, rules: Code) -> str | None:
    """The code of a turn that ends in a block of it, else None (code_execution.py:186-189, utils.py:69-77)."""
    if not text.endswith(rules.tag) or text.rfind(rules.begin) <= text.rfind(rules.tag, 0, -1):
        return None
    return text.split(rules.begin)[-1].split(rules.tag)[0]


def output_block(rules: Code, result: Result, left: int) -> str:
    """What stands after a block of code: its output, and how many calls are left."""
    block = rules.output_begin.removeprefix("\n") + result.text + rules.output_end
    if rules.told:
        said = rules.left.format(n=left) if left > 0 else rules.none_left
        block += rules.system_begin + said + rules.system_end
    return block


def closing(made: Completion, rules: Code) -> str:
    """What is put after a turn so that its code is closed, as the engines leave the stop string out; mostly nothing."""
    text = made.text
    if made.stop == rules.tag:
        return "" if text.rstrip("\n").endswith(rules.tag) else rules.tag
    open_block = text.count(rules.tag) + 1 == text.count(rules.begin)
    # Not told what it stopped at: an open block says that it was the tag (8b18f39 code_execution.py:160-163).
    untold = made.reason == "stop" and made.stop is None
    return rules.tag if open_block and (rules.closes or untold) else ""


def generate(
    complete: Complete,
    sandbox: Sandbox,
    prompt: str,
    max_tokens: int,
    rules: Code,
    encode: Callable[[str], list[int]] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """One sample of a problem: the generation after the prompt, and what happened in it.

    max_tokens: that the model may generate in all turns together; outputs are not counted. encode: text -> tokens; with
    it the engine is given tokens, its own as it made them. clock: seconds.

    Returns generation, turns (text, tokens, stop; of a call also code, output, status, seconds, timed_out, detail,
    replayed), calls, timeouts, tokens (generated, all turns), counted (the same as upstream counts them: without the
    turn after the last call), truncated, and seconds of the engine and of the code.
    """
    shown: Prompt = encode(prompt) if encode else prompt
    generation, left, counted, began = "", max_tokens, 0, clock()
    turns: list[dict[str, Any]] = []
    truncated = False
    for index in range(rules.calls + 1):
        if rules.total_seconds and clock() - began >= rules.total_seconds:
            truncated = True
            break
        asked = clock()
        made = complete(shown, [rules.tag], left)
        tail = closing(made, rules)
        text = made.text + tail
        turn: dict[str, Any] = {"text": text, "tokens": made.tokens, "reason": made.reason, "stop": made.stop}
        turns.append(turn | {"engine_seconds": clock() - asked})
        turn = turns[-1]
        generation += text
        truncated = made.reason == "length"
        if index == rules.calls:  # the turn after the last call: what code it has is not run
            break
        left -= made.tokens
        counted += made.tokens
        if left <= 0:
            truncated = truncated or code_of(text.rstrip("\n"), rules) is not None
            break
        stripped = text[:-1] if text.endswith(f"{rules.tag}\n") else text
        code = code_of(stripped, rules)
        if code is None:
            break
        result = sandbox.run(code)
        block = output_block(rules, result, rules.calls - index - 1)
        block = block if text.endswith("\n") else f"\n{block}"
        turn |= {"code": code, "output": result.text, "status": result.status, "seconds": result.seconds}
        turn |= {"timed_out": result.status == "timeout", "detail": result.detail, "replayed": result.replayed}
        generation += block
        if encode:
            assert isinstance(shown, list)
            shown = [*shown, *made.ids, *(encode(tail) if tail else ()), *encode(block)]
        else:
            assert isinstance(shown, str)
            shown += text + block
    calls = [turn for turn in turns if "code" in turn]
    return {
        "generation": generation,
        "turns": turns,
        "calls": len(calls),
        "timeouts": sum(turn["timed_out"] for turn in calls),
        "tokens": sum(turn["tokens"] for turn in turns),
        "counted": counted,
        "truncated": truncated,
        "engine_seconds": sum(turn["engine_seconds"] for turn in turns),
        "code_seconds": sum(turn["seconds"] for turn in calls),
    }
