"""Judge what makes reproductions fail, of rows as a trainer sees them: the last lines of make inspect.

Every judge returns a level, ok, WARNING or WRONG, and one sentence, with the remedy where it is not ok.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.lib.errors import Failure
from sft.lib.files import read_json
from sft.model.rope import rope_of
from sft.recipe.keys import Recipe
from sft.rows.chat import ENDS, USER, Message, common_system, render
from sft.rows.dataset import View

OK, WARNING, WRONG = "ok", "WARNING", "WRONG"
Verdict = tuple[str, str]
# By the recipe's CHAT: what stands before all turns, a turn, and how the prompt opens the answer.
FORMS = {
    "chatml": ("", re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n", re.DOTALL), "<|im_start|>assistant\n"),
    "llama3": (
        "<|begin_of_text|>",
        re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>", re.DOTALL),
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
}
# What Llama 3.1's template writes before a system message, also where there is none.
DATED = re.compile(r"Cutting Knowledge Date: [^\n]*\nToday Date: ([^\n]*)\n\n")


@dataclass(frozen=True)
class Row:
    """A row of the file and what enters a batch of it. fault: why the trainer refuses it, if it does."""

    number: int
    prompt: str
    answer: str
    view: View
    fault: str = ""

    @property
    def tokens(self) -> int:
        return self.view.prompt + self.view.answer


def named(rows: Sequence[Row]) -> str:
    """row 3; rows 3, 7; rows 3, 7, 9 and 4 more."""
    numbers = ", ".join(f"{row.number:,}" for row in rows[:3])
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return f"row{'s' if len(rows) > 1 else ''} {numbers}{more}"


def judge_files(folders: dict[str, Path]) -> Verdict:
    """Whether each file of a stage's folder has the size that DONE records: training checks the same."""
    for stage, folder in folders.items():
        for name, size in read_json(folder / "DONE").get("bytes", {}).items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != size:
                has = f"has {file.stat().st_size:,} bytes, not the" if file.is_file() else "is missing, of"
                remedy = f"remove {folder} and make {stage} again"
                return WARNING, f"{file} {has} {size:,} that DONE records, and training will refuse it; {remedy}"
    return OK, "data and model have the sizes that their DONE records"


def judge_bos(tokenizer: Any, config: dict[str, Any], rows: Sequence[Row]) -> Verdict:
    """How many BOS tokens the rows begin with, against what the tokenizer or its chat template puts there.

    The id is the tokenizer's, else config.json's: Qwen2.5's tokenizers name none.
    """
    from jinja2 import TemplateError

    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else config.get("bos_token_id")
    if bos is None:
        return OK, "neither tokenizer nor config.json names one"
    token = f"{tokenizer.convert_ids_to_tokens(bos)} ({bos})"

    def leading(ids: Sequence[int]) -> int:
        return next((n for n, id_ in enumerate(ids) if id_ != bos), len(ids))

    added, written = leading(tokenizer.encode("x", add_special_tokens=True)), 0
    with suppress(TemplateError):  # judge_template tells of it
        if tokenizer.chat_template:
            text = render(tokenizer, [{"role": "user", "content": "x"}], True)
            written = leading(tokenizer.encode(text, add_special_tokens=False))
    expected = max(added, written)
    found = [(row, leading(row.view.ids)) for row in rows]
    if doubled := [row for row, count in found if count > 1]:
        return WRONG, f"{named(doubled)}: more than one {token} at the start; take them out of the text"
    if extra := [row for row, count in found if count > expected]:
        return WRONG, (
            f"{named(extra)}: a {token} at the start, which neither tokenizer nor template puts there; "
            "take it out of the text"
        )
    if bare := [row for row, count in found if count < expected]:
        who = "the tokenizer adds" if added else "the template writes"
        return WARNING, (
            f"{named(bare)}: no {token} at the start, where {who} one for a server; "
            "serve without it, or write it into the text"
        )
    if expected and (inner := [row for row, count in found if row.view.ids.count(bos) > count]):
        return WRONG, f"{named(inner)}: a {token} that is not at the start; take it out of the text"
    if expected:
        return OK, f"one {token} at the start of each of {len(rows)} rows, as servers will put it there"
    return OK, f"no {token} at the start of {len(rows)} rows, and neither tokenizer nor template puts one there"


def judge_end(tokenizer: Any, rows: Sequence[Row], end_of_turn: str) -> Verdict:
    """Whether each answer has the end-of-turn token once, as its last except for blanks, with loss on it."""
    ids = tokenizer.encode(end_of_turn, add_special_tokens=False)
    added = tokenizer.added_tokens_decoder.get(ids[0]) if len(ids) == 1 else None
    if added is None or not added.special:
        return WRONG, f"{end_of_turn} is not one special token but {ids}; start from a base whose tokenizer has it"
    judged, blanks = 0, False
    for row in rows:
        if row.fault:
            return WRONG, f"row {row.number:,}: {row.fault}; run make data again"
        if row.view.over:
            continue  # masked: there is no loss to judge, and its end may be cut
        judged += 1
        answer, loss = row.view.ids[row.view.split :], row.view.loss[row.view.split :]
        last = len(answer) - 1
        while last >= 0 and not tokenizer.decode([answer[last]]).strip():
            last -= 1
        if last < 0 or answer[last] != ids[0]:
            tail = tokenizer.decode(answer[-5:])
            return WRONG, f"row {row.number:,}: the answer ends with {tail!r}, which teaches not to stop; fix it"
        if answer.count(ids[0]) > 1:
            return WRONG, f"row {row.number:,}: {answer.count(ids[0])} {end_of_turn} in the answer; fix it"
        if not loss[last]:
            return WRONG, f"row {row.number:,}: no loss on {end_of_turn}; report it, this must not be"
        blanks |= any(loss[last + 1 :])
    if not judged:
        return WARNING, f"all of {len(rows)} answers are masked; inspect other rows with ROW=n"
    also = ", as do the blanks after it, which no server generates" if blanks else ""
    return OK, f"{end_of_turn} ({ids[0]}) is in each of {judged} answers once, last, and carries loss{also}"


def judge_eos(tokenizer: Any, folder: Path, config: dict[str, Any], end_of_turn: str) -> Verdict:
    """What config, generation config and tokenizer stop at; convert.name_end_of_turn fixes all three in the result."""
    file = folder / "generation_config.json"
    stops = {
        "config.json": config.get("eos_token_id"),
        "generation_config.json": read_json(file).get("eos_token_id") if file.is_file() else None,
        "tokenizer": tokenizer.eos_token_id,
    }
    where: dict[tuple[int, ...], list[str]] = {}
    for name, value in stops.items():
        ids = tuple(value if isinstance(value, list) else [] if value is None else [value])
        for unknown in (id_ for id_ in ids if not 0 <= id_ < len(tokenizer)):
            return WRONG, (
                f"{name} has {unknown}, but the tokenizer's last is {len(tokenizer) - 1}: they are of two models; "
                f"remove {folder} and make it again"
            )
        where.setdefault(ids, []).append(name)

    def token(id_: int) -> str:
        return f"{tokenizer.convert_ids_to_tokens(id_)} ({id_})"

    has = "; ".join(f"{' and '.join(map(token, ids)) or 'none'} in {', '.join(names)}" for ids, names in where.items())
    end = tokenizer.convert_tokens_to_ids(end_of_turn)
    if all(end in ids for ids in where):
        return OK, f"{has}: with it the answers end"
    return OK, f"{has}; the answers end with {end_of_turn} ({end}), which make convert puts in all three of the result"


def judge_trained(tokenizer: Any, folder: Path, recipe: Recipe, end_of_turn: str) -> Verdict:
    """Whether the model can learn to end a turn: an adapter on linear layers leaves the rows that write tokens."""
    from sft.model.untrained import untrained

    end = tokenizer.convert_tokens_to_ids(end_of_turn)
    specials = [id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special]
    if end not in specials:
        return WRONG, f"{end_of_turn} is not a special token, so nothing can be said of it; see end of turn"
    why = untrained(folder, end, specials[:64], len(tokenizer))
    if not why:
        return OK, f"the base has learned {end_of_turn} ({end}), as far as its weights show"
    if "LORA_RANK" not in recipe:
        return OK, f"the base has never learned {end_of_turn} ({end}): {why}; full training teaches it"
    return WARNING, (
        f"the base has never learned {end_of_turn} ({end}): {why}; LORA_TARGETS are linear layers, which cannot "
        "teach it, and answers may not end: start from the Instruct model, train without LORA_RANK, or take CHAT=none"
    )


def turns(prompt: str, chat: str = "chatml") -> list[Message] | None:
    """The messages that a prompt was rendered from; None when it is not turns of that form and the head of an answer.

    Of Llama 3.1's system message the dates that its template writes are left out: it will write them again.
    """
    start, turn, opening = FORMS[chat]
    messages, end = [], len(start)
    while match := turn.match(prompt, end):
        messages.append({"role": match[1], "content": match[2]})
        end = match.end()
    if not messages or not prompt.startswith(start) or prompt[end:] != opening:
        return None
    if chat == "llama3" and messages[0]["role"] == "system":
        messages[0]["content"] = DATED.sub("", messages[0]["content"], count=1)
    return messages


def difference(row: str, template: str) -> str | None:
    """Where two texts differ first, and what each has there; None when they are the same."""
    if row == template:
        return None
    at = next((i for i, (a, b) in enumerate(zip(row, template, strict=False)) if a != b), min(len(row), len(template)))
    return f"at character {at} the row has {row[at : at + 24]!r}, the template {template[at : at + 24]!r}"


def judge_template(tokenizer: Any, rows: Sequence[Row], chat: str) -> Verdict:
    """Whether the rows are what the tokenizer's chat template renders of their turns: what servers send and stop at.

    chat: the recipe's CHAT.
    """
    from jinja2 import TemplateError

    if chat == "none":
        return OK, "CHAT=none: the rows are plain text, and no server is to render a template; send prompts as they are"
    if not tokenizer.chat_template:
        return WARNING, "the tokenizer has no chat template; give servers one that renders the rows' prompts"
    other = []
    for row in rows:
        messages = turns(row.prompt, chat)
        if messages is None:
            other.append(row)
            continue
        reply = {"role": "assistant", "content": row.answer.removesuffix("\n").removesuffix(ENDS[chat])}
        try:
            found = difference(row.prompt, render(tokenizer, messages, True))
            found = found or difference(row.prompt + row.answer, render(tokenizer, [*messages, reply], False))
        except TemplateError as error:
            found = f"the template fails on its turns ({str(error)[:80]})"
        if found:
            return (
                WRONG,
                f"row {row.number:,}: {found}; servers would send other text than was trained on: fix one",
            )
    if other:
        name = {"chatml": "ChatML", "llama3": "Llama 3's"}[chat]
        return WARNING, f"{named(other)}: the prompt is not {name} turns, so it was not compared; compare it by hand"
    return OK, f"{len(rows)} rows are what the tokenizer's chat template renders of their turns"


def judge_system(tokenizer: Any, rows: Sequence[Row], chat: str) -> Verdict:
    """Whether a chat without a system message gets the prompt that the rows have; see chat_template.give_default."""
    from jinja2 import TemplateError

    if chat == "none" or not tokenizer.chat_template:
        return OK, "there is no chat template, hence none that writes one"
    chats = [turns(row.prompt, chat) for row in rows]
    system = common_system(chats)
    if system is None:
        several = {chat_[0]["content"] for chat_ in chats if chat_ and chat_[0]["role"] == "system"}
        if not several:
            return OK, "the rows have none"
        return OK, f"the rows have {len(several)} different ones, or some none; send one with every chat"
    try:
        bare = render(tokenizer, USER, True)
        same = bare == render(tokenizer, [{"role": "system", "content": system}, *USER], True)
    except TemplateError:
        return OK, "the template fails, see above"
    if same:
        return OK, f"a chat without one gets that of the rows, {system[:60]!r}"
    first = (turns(bare, chat) or USER)[0]
    other = repr(first["content"][:60]) if first["role"] == "system" else "none"
    return WARNING, (
        f"every row has {system[:60]!r}, but of a chat without one the base's template makes {other}, which was not "
        "trained: make convert gives the result a template that writes the rows'; with the base's, send it"
    )


def judge_rope(recipe: Recipe, folder: Path, longest: Row, again: str) -> Verdict:
    """config.json's theta and positions against the recipe and the positions that the longest row needs."""
    try:
        config = read_json(folder / "config.json")
        theta, positions = rope_of(config, folder / "config.json", scaled="ROPE_THETA" not in recipe)
    except Failure as failure:
        return WRONG, str(failure)
    has = f"theta {theta:g} with {positions:,} positions"
    wanted = (recipe["ROPE_THETA"], recipe["MAX_POSITIONS"]) if "ROPE_THETA" in recipe else None
    row = f"row {longest.number:,}, the longest"
    need, who = min((longest.tokens, row), (recipe["SEQ_LEN"], "SEQ_LEN"))
    short = f", too few for the {need:,} of {who}" if need > positions else ""
    if wanted not in (None, (theta, positions)):
        return WRONG, (
            f"{has} in config.json{short}; the recipe has theta {wanted[0]:g} with {wanted[1]:,}: "
            f"run make model {again}, or remove {folder} first"
        )
    if short:
        return WRONG, f"{has} in config.json{short}; lower SEQ_LEN, or widen RoPE with ROPE_THETA and MAX_POSITIONS"
    return OK, (
        f"{has}, {'as in the recipe' if wanted else 'which the recipe leaves alone'}, cover the {need:,} of {who}"
    )


def judge_length(recipe: Recipe, rows: Sequence[Row], longest: Row) -> Verdict:
    """Whether rows are masked for their length: of those read, and the longest."""
    limit = recipe["SEQ_LEN"]
    has = f"the longest row ({longest.number:,}) has {longest.tokens:,} tokens"
    masked = sum(row.view.over > 0 for row in rows)
    if masked == len(rows):
        return WRONG, f"all of {len(rows)} rows are too long for SEQ_LEN={limit} and carry no loss; raise it"
    if masked or longest.view.over:
        return WARNING, (
            f"{has}, too many for SEQ_LEN={limit}; rows like it carry no loss ({masked} of {len(rows)} read): "
            "raise SEQ_LEN, or count on fewer rows"
        )
    return OK, f"{has} and fits SEQ_LEN={limit}"
