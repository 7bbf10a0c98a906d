"""A row in words and colours: what is prompt, what carries loss."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sft.engines.registry import part
from sft.inspect.verdicts import Row
from sft.lib.errors import Failure
from sft.rows.dataset import SftDataset, View

SHOWN = 3  # rows, unless one is asked for
BATCH = 64  # rows of a global batch, at most, that are put together and judged
HEAD, TAIL = 120, 60  # tokens that are shown of a longer prompt or answer
STEP = 1024  # and of a step whose rows are packed in their order
BINS, MEMBERS = 6, 12  # bins or micro batches of a batch, and rows of either, that are shown
LONGEST = 16  # lines, by bytes, among which the row with the most tokens is looked for
WIDTH = 116
# Text is data: what would steer the terminal is shown as an escape.
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


# --- reading -----------------------------------------------------------------------------------------------------


def read_row(dataset: SftDataset, engine: str, index: int) -> Row:
    """The row at a place of the file. Raises Failure when it does not hold two texts."""
    prompt, answer = dataset.text(index)
    try:
        return Row(index + 1, prompt, answer, part(engine, "row").view(dataset, index))
    except Failure as failure:  # it can still be looked at: all its tokens, none with loss
        fault = str(failure).removeprefix(f"{dataset.path}:{index + 1}: ").partition(";")[0]
        before, after = (dataset.tokenizer.encode(text, add_special_tokens=False) for text in (prompt, answer))
        ids, split = before + after, len(before)
        over = max(0, len(ids) - dataset.seq_len)
        return Row(index + 1, prompt, answer, View(split, len(after), ids, split, [False] * len(ids), 0, over), fault)


def longest_lines(dataset: SftDataset) -> list[int]:
    """Places of the file's LONGEST longest lines, from the offsets that the dataset has found already."""
    import numpy as np

    sizes = np.diff(dataset.offsets, append=dataset.path.stat().st_size)
    count = min(LONGEST, len(sizes))
    return sorted(int(place) for place in np.argpartition(sizes, -count)[-count:])


def load_tokenizer(folder: Path) -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of every row that is longer than its default
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # OSError, ValueError, and the bare Exception of the tokenizers library
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise Failure(
            f"{folder}: tokenizer and config.json do not load ({reason}); remove the folder and make it again"
        ) from None


# --- showing rows ------------------------------------------------------------------------------------------------

Span = tuple[str, bool, str]  # text; whether it carries loss; kind: "text", "special" or "note" (of what is left out)


def paint(spans: Sequence[Span], colours: bool) -> str:
    """The text with what carries loss green and special tokens reversed, or in ⟦ ⟧ and ⟨ ⟩ where colours are not."""
    out, inside = [], False
    for text, loss, kind in spans:
        if colours:
            codes = ";".join(c for c, on in (("32", loss), ("7", kind == "special"), ("2", kind == "note")) if on)
            lines = (f"\x1b[{codes}m{line}\x1b[0m" if codes and line else line for line in text.split("\n"))
            out.append("\n".join(lines))
            continue
        if loss != inside:
            out.append("⟦" if loss else "⟧")
            inside = loss
        out.append(f"⟨{text}⟩" if kind == "special" else text)
    return "".join(out) + ("⟧" if inside else "")


def shown(view: View, full: bool) -> Iterator[int | range]:
    """Places of the tokens to show; a range stands for those that are left out in the middle of prompt or answer."""
    for start, end in ((0, view.split), (view.split, len(view.ids))):
        if full or end - start <= HEAD + TAIL:
            yield from range(start, end)
        else:
            yield from range(start, start + HEAD)
            yield range(start + HEAD, end - TAIL)
            yield from range(end - TAIL, end)


def left_out(places: range, view: View) -> Span:
    return f"… {len(places):,} tokens left out …", view.loss[places[0]], "note"


def text_spans(tokenizer: Any, view: View, full: bool) -> list[Span]:
    """The tokens decoded: special ones one by one, the others in runs, for a character may be of several tokens."""
    spans: list[Span] = []
    run_: list[int] = []

    def close() -> None:
        if run_:
            text = tokenizer.decode([view.ids[i] for i in run_], clean_up_tokenization_spaces=False)
            # Half a character where the middle is left out says nothing.
            text = text.rstrip("\ufffd") if isinstance(place, range) else text
            text = text.lstrip("\ufffd") if spans and spans[-1][2] == "note" else text
            spans.append((text.translate(CONTROLS), view.loss[run_[0]], "text"))
            run_.clear()

    place: int | range = 0
    for place in shown(view, full):
        if isinstance(place, range):
            close()
            spans.append(left_out(place, view))
        elif view.ids[place] in tokenizer.added_tokens_decoder:
            close()
            spans.append((tokenizer.decode([view.ids[place]]), view.loss[place], "special"))
        else:
            if run_ and (view.loss[run_[-1]] != view.loss[place] or place == view.split):
                close()
            run_.append(place)
    close()
    return spans


def id_spans(tokenizer: Any, view: View, full: bool) -> list[Span]:
    """The token ids, in lines of at most WIDTH characters."""
    spans: list[Span] = []
    column = 0
    for place in shown(view, full):
        if isinstance(place, range):
            word, loss, kind = left_out(place, view)
        else:
            special = view.ids[place] in tokenizer.added_tokens_decoder
            word, loss, kind = str(view.ids[place]), view.loss[place], "special" if special else "text"
        width = len(word) + (3 if kind == "special" else 1)
        if spans:
            spans.append(("\n" if column + width > WIDTH else " ", loss and spans[-1][1], "text"))
            column = 0 if column + width > WIDTH else column
        column += width
        spans.append((word, loss, kind))
    return spans


def loss_line(tokenizer: Any, view: View) -> str:
    """Which tokens carry loss, in words."""
    places = [i for i, loss in enumerate(view.loss) if loss]
    if not places:
        return "none"
    first, *last = (repr(tokenizer.decode([view.ids[i]])) for i in (places[0], *places[-2:]))
    return f"tokens {places[0]}..{places[-1]}, from {first} to {' '.join(last)}"


def show_row(row: Row, total: int, dataset: SftDataset, full: bool, colours: bool) -> None:
    view, tokenizer = row.view, dataset.tokenizer
    text = row.prompt + row.answer
    fate = f"fits SEQ_LEN={dataset.seq_len}"
    if row.fault:
        fate = f"REFUSED by the trainer: {row.fault}"
    elif view.over:
        fate = f"masked: {view.over:,} too long for SEQ_LEN={dataset.seq_len}; {view.split:,} prompt and "
        fate += f"{len(view.ids) - view.split:,} answer tokens stay in the batch, without loss"
    print(
        f"\nrow {row.number:,} of {total:,}: {len(text):,} characters, {len(text.encode(errors='replace')):,} bytes; "
        f"{row.tokens:,} tokens ({view.prompt:,} prompt, {view.answer:,} answer), {sum(view.loss):,} with loss; {fate}"
    )
    print("  text")
    print("\n".join(f"  | {line}" for line in paint(text_spans(tokenizer, view, full), colours).split("\n")))
    print("  ids")
    print("\n".join(f"    {line}" for line in paint(id_spans(tokenizer, view, full), colours).split("\n")))
    print(f"  loss          {loss_line(tokenizer, view)}")
    if view.positions:
        print(f"  position ids  0..{view.positions - 1}")
