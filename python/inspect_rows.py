"""Show rows as the trainer of the recipe's engine sees them, and judge what makes reproductions fail.

    python python/inspect_rows.py tiny 1 --work work              # the first three rows
    python python/inspect_rows.py tiny 1 --work work --row 17     # one row, and the batch that begins with it or,
                                                                  # where the file's order is kept, its step
    python python/inspect_rows.py tiny 1 --work work --row 17 --full

Of each row: its text and token ids, which of them carry loss, which are special, what its length does to it. Of a
batch: padding or packing, boundaries and position ids. Then a verdict each, ok, WARNING or WRONG, on files, BOS, end
of turn, EOS, template, system message, RoPE and length. Reads the rows that training reads
(WORK/data/<dataset>/round<N>/all.jsonl, or what the recipe's SCHEMA has in its place) and the model that it starts
from; writes nothing. Exit status 1 when something is WRONG. NO_COLOR=1 gives brackets on a terminal, too.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import recipe as recipes
import verdicts
from dataset import IGNORE, VIEWS, SftDataset, View, deal, fill, pack
from lib import Failure, log, read_done, read_json, run, usage
from openmath import ENDS
from verdicts import WRONG, Row, Verdict

SHOWN = 3  # rows, unless one is asked for
BATCH = 64  # rows of a global batch, at most, that are put together and judged
HEAD, TAIL = 120, 60  # tokens that are shown of a longer prompt or answer
STEP = 1024  # and of a step whose rows are packed in their order
BINS, MEMBERS = 6, 12  # bins or micro batches of a batch, and rows of either, that are shown
LONGEST = 16  # lines, by bytes, among which the row with the most tokens is looked for
WIDTH = 116
RULES = {  # in words what dataset.VIEWS does
    "automodel": "loss on the answer up to its end of turn, rows over SEQ_LEN masked",
    "nemo-rl": "passthrough template, nothing added, loss on the whole answer, rows of SEQ_LEN or more masked",
}
# Text is data: what would steer the terminal is shown as an escape.
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


# --- reading -----------------------------------------------------------------------------------------------------


def read_row(dataset: SftDataset, engine: str, index: int) -> Row:
    """The row at a place of the file. Raises Failure when it does not hold two texts."""
    prompt, answer = dataset.text(index)
    try:
        return Row(index + 1, prompt, answer, VIEWS[engine](dataset, index))
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
            # Half a character where the middle is left out is no news.
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


# --- showing a batch ---------------------------------------------------------------------------------------------


def listed(values: Sequence[object], full: bool) -> str:
    """Values in a line, the later ones as a count."""
    words = [f"{v:,}" if isinstance(v, int) else str(v) for v in values]
    if full or len(words) <= MEMBERS:
        return " ".join(words)
    return f"{' '.join(words[:MEMBERS])} … {len(words) - MEMBERS:,} more"


def replicas(recipe: recipes.Recipe) -> int:
    """Data-parallel size."""
    number = {key: int(recipe[key]) for key in ("NODES", "GPUS_PER_NODE", "TP", "CP", "PP")}
    return number["NODES"] * number["GPUS_PER_NODE"] // (number["TP"] * number["CP"] * number["PP"])


def multiple(recipe: recipes.Recipe) -> int:
    """To what NeMo-RL pads each row: make_sequence_length_divisible_by, which has to be a multiple of 2*CP, times TP
    with sequence parallelism (7ea279a nemo_rl/models/megatron/data.py:1284-1296); SEQ_LEN divides by it too.

    sequence_packing.sequence_length_round, for all its name, is read by dynamic batching only.
    """
    return 2 * int(recipe["CP"]) * int(recipe["TP"])


def in_order(recipe: recipes.Recipe) -> bool:
    """Whether a step trains on rows that stand together in the file: nemo-automodel with SHUFFLE=false."""
    return recipe["ENGINE"] == "automodel" and recipe.get("SHUFFLE", "true") == "false"


def show_filled(recipe: recipes.Recipe, rows: Sequence[Row], full: bool, asked: int | None) -> None:
    """Bins as packed.py makes them of a step's rows, which stay in their order.

    No row is padded and no bin: it is as long as its rows. Position ids start again with each row, and a mask keeps it
    from the others. asked: the number of the row that the bin of is shown in any case.
    """
    dp, batch, capacity = replicas(recipe), int(recipe["GLOBAL_BATCH"]), int(recipe["SEQ_LEN"])
    lengths = [row.view.positions for row in rows]
    bins = fill(lengths, capacity)
    whole = len(rows) == batch
    if whole:
        try:
            bins = deal(bins, dp)
        except ValueError as error:
            print(f"  training stops at these rows: {error}")
            return
    used = sum(lengths) / (len(bins) * capacity)
    print(
        f"  {len(bins)} bins of at most SEQ_LEN={capacity:,} tokens, {used:.1%} of them used; "
        "rows in their order, next to each other without padding, each attends to itself alone"
    )
    if not whole:
        print(f"  training packs all {batch:,} rows at once, into as many bins for each of {dp:,} replicas")
    for number, members in enumerate(bins, 1):
        numbers = [rows[i].number for i in members]
        if not full and number > BINS and asked not in numbers:
            continue
        ends = [sum(lengths[i] for i in members[:n]) for n in range(len(members) + 1)]
        whose = f" (replica {(number - 1) % dp})" if whole and dp > 1 else ""
        print(f"  bin {number}{whose}: {len(members)} rows, {ends[-1]:,} tokens, {capacity - ends[-1]:,} free")
        print(f"    rows          {listed(numbers, full)}")
        print(f"    tokens        {listed([lengths[i] for i in members], full)}")
        print(f"    boundaries    {listed(ends, full)}")
        print(f"    position ids  {listed([f'0..{lengths[i] - 1}' for i in members], full)}")
    if len(bins) > BINS and not full:
        print(f"  … {len(bins) - BINS} more bins")


def show_packed(recipe: recipes.Recipe, rows: Sequence[Row], full: bool) -> None:
    """Bins as NeMo-RL makes them of a global batch (7ea279a nemo_rl/distributed/batched_data_dict.py:591-660).

    Each row is padded, with id 0, and the position ids start again at each padded boundary: none are handed over
    (nemo_rl/models/megatron/data.py:559-561, 1084), Megatron counts from the last in cu_seqlens
    (Megatron-LM 00c51e1 megatron/core/models/common/embeddings/rope_utils.py, _apply_rotary_pos_emb_thd).
    """
    unit, dp, batch = multiple(recipe), replicas(recipe), int(recipe["GLOBAL_BATCH"])
    capacity = int(recipe["SEQ_LEN"]) * int(recipe["MICRO_BATCH"])
    lengths = [len(row.view.ids) for row in rows]
    padded = [-(-length // unit) * unit for length in lengths]
    try:
        bins = pack(padded, capacity)
    except ValueError as error:
        print(f"  training stops at these rows: {error}")
        return
    whole = len(rows) == batch
    if whole:
        bins = deal(bins, dp)
    used, room = sum(lengths), len(bins) * capacity
    print(
        f"  {len(bins)} bins of at most SEQ_LEN*MICRO_BATCH={capacity:,} tokens, {used / room:.1%} of them used; "
        f"each row padded with id 0 to a multiple of 2*CP*TP={unit}"
    )
    if not whole:
        print(f"  training packs all {batch:,} rows at once, into a multiple of {dp:,} bins: as many for each replica")
    for number, members in enumerate(bins if full else bins[:BINS], 1):
        ends = [sum(padded[i] for i in members[:n]) for n in range(len(members) + 1)]
        own = sum(lengths[i] for i in members)
        whose = f" (replica {(number - 1) % dp})" if whole and dp > 1 else ""
        print(
            f"  bin {number}{whose}: {len(members)} rows, {own:,} tokens + {ends[-1] - own:,} padding, "
            f"{capacity - ends[-1]:,} free"
        )
        print(f"    rows          {listed([rows[i].number for i in members], full)}")
        print(f"    tokens        {listed([lengths[i] for i in members], full)}")
        print(f"    boundaries    {listed(ends, full)}")
        print(f"    position ids  {listed([f'0..{padded[i] - 1}' for i in members], full)}")
    if len(bins) > BINS and not full:
        print(f"  … {len(bins) - BINS} more bins")


def show_padded(recipe: recipes.Recipe, rows: Sequence[Row], tokenizer: Any, full: bool) -> None:
    """Micro batches of PACKING=false, each row padded on the right.

    automodel: to the longest of its micro batch, with input id 0 whatever the tokenizer's padding token is, since the
    dataset names none; no position ids are handed over, the model counts every row from 0 (nemo-automodel 0.7.0
    components/datasets/utils.py default_collater and get_pad_token_from_key, components/models/qwen2/model.py).
    nemo-rl: to the longest of the global batch, rounded up, with the tokenizer's padding token
    (7ea279a nemo_rl/algorithms/sft.py:455-460, nemo_rl/data/llm_message_utils.py:257-430).
    """
    size = int(recipe["MICRO_BATCH"])
    groups = [rows[i : i + size] for i in range(0, len(rows), size)]
    if recipe["ENGINE"] == "nemo-rl":
        unit = multiple(recipe)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        target = max(-(-row.view.positions // unit) * unit for row in rows)
        to = f"the longest row of the global batch, rounded up to a multiple of 2*CP*TP={unit}"
        mask = "without loss"
    else:
        pad, target = 0, 0
        to = f"the longest row of each micro batch of MICRO_BATCH={size}"
        mask = f"label {IGNORE}, attention mask 0"
    print(f"  padded to {to}, with input id {pad} ({tokenizer.decode([pad])!r}), {mask}")
    for number, group in enumerate(groups if full else groups[:BINS], 1):
        lengths = [row.view.positions for row in group]
        width = target or max(1, *lengths)
        print(
            f"  micro batch {number}: rows {group[0].number:,}..{group[-1].number:,}, {len(group)} x {width:,} tokens, "
            f"{1 - sum(lengths) / (len(group) * width):.1%} padding, position ids 0..{width - 1} in each"
        )
        print(f"    tokens        {listed(lengths, full)}")
    if len(groups) > BINS and not full:
        print(f"  … {len(groups) - BINS} more micro batches")


def show_batch(
    recipe: recipes.Recipe, rows: Sequence[Row], tokenizer: Any, full: bool, asked: int | None = None
) -> None:
    """The rows that train in one step, as far as they are read; in a shuffled run, such as might."""
    batch = int(recipe["GLOBAL_BATCH"])
    part = "a global batch" if len(rows) == batch else f"{len(rows)} of the {batch:,} of a global batch"
    order = "which training shuffles"
    if in_order(recipe):
        order = f"which training keeps: step {(rows[0].number - 1) // batch + 1:,}"
    print(f"\nbatch: rows {rows[0].number:,}..{rows[-1].number:,}, {part}, in the file's order, {order}")
    sound = [row for row in rows if not row.fault]
    if not sound:
        print("  training stops at these rows")
    elif recipe["PACKING"] == "true" and recipe["ENGINE"] == "automodel":
        show_filled(recipe, sound, full, asked)
    elif recipe["PACKING"] == "true":
        show_packed(recipe, sound, full)
    else:
        show_padded(recipe, sound, tokenizer, full)


# --- all of it -------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = recipes.parser(__doc__)
    parser.add_argument("--row", help="the number of the row, from 1 (default: the first three)")
    parser.add_argument("--full", action="store_true", help="leave nothing out")
    args, recipe, paths = recipes.open_run(parser)
    again = f"MODEL={args.model} ROUND={args.round}"
    engine, path = recipe["ENGINE"], paths.rows
    if engine not in VIEWS:
        other = f"ROUND={recipe['DATA_ROUND']}, the same rows" if "DATA_ROUND" in recipe else "round 1"
        raise Failure(f"what engine {engine} makes of a row is not shown here; inspect {other} on engine automodel")
    if args.row is not None and not recipes.positive(args.row):
        usage(f"ROW={args.row} is not a row's number; count from 1")
    read_done(paths.data, f"run: make data {again}")
    read_done(paths.start, f"run: make model {again}" if paths.start == paths.base else "finish round 1 first")
    if not path.is_file():
        raise Failure(f"{path} is not there; make the data as JSONL of input and output, which training reads")
    if path.stat().st_size > 1 << 30:
        log(f"inspect: finding the lines of {path.stat().st_size / 1e9:.1f} GB, as training does when it starts")
    tokenizer = load_tokenizer(paths.start)
    dataset = SftDataset(str(path), int(recipe["SEQ_LEN"]), ENDS[recipe["CHAT"]], tokenizer)
    total = len(dataset)
    if not total:
        raise Failure(f"{path} has no rows; run: make data {again}")
    if args.row and int(args.row) > total:
        usage(f"ROW={args.row} is beyond the {total:,} rows of {path}; give a smaller one")

    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    sys.stdout.reconfigure(errors="backslashreplace")  # half a surrogate pair is shown, not stumbled over
    first = int(args.row) - 1 if args.row else 0
    batch = int(recipe["GLOBAL_BATCH"])
    # Where the order is kept, the step that the row is of, whole: its bins depend on all of them.
    start = first // batch * batch if in_order(recipe) else first
    batch = min(batch, STEP if in_order(recipe) and recipe["PACKING"] == "true" else BATCH)
    places = sorted({*range(first, min(first + SHOWN, total)), *range(start, min(start + batch, total))})
    read = {index: read_row(dataset, engine, index) for index in places}
    rows = list(read.values())
    shown_ = [read[index] for index in places if index >= first][: 1 if args.row else SHOWN]
    members = [read[index] for index in places if start <= index < start + batch]
    long = (read_row(dataset, engine, index) for index in longest_lines(dataset))
    longest = max([*rows, *long], key=lambda row: row.tokens)

    print(f"{args.model}, round {args.round}: {path}")
    print(f"tokenizer: {paths.start}")
    print(f"engine: {engine}; prompt and answer tokenized apart, {RULES[engine]}")
    legend: list[Span] = [("carries loss", True, "text"), (", ", False, "text"), ("special token", False, "special")]
    print(f"marks: {paint(legend, colours)}")
    for row in shown_:
        show_row(row, total, dataset, args.full, colours)
    show_batch(recipe, members, tokenizer, args.full, first + 1)

    config = read_json(paths.start / "config.json")
    judges: dict[str, Callable[[], Verdict]] = {
        "files": lambda: verdicts.judge_files({"data": paths.data, "model": paths.start}),
        "BOS": lambda: verdicts.judge_bos(tokenizer, config, rows),
        "end of turn": lambda: verdicts.judge_end(tokenizer, rows, dataset.end_of_turn),
        "EOS": lambda: verdicts.judge_eos(tokenizer, paths.start, config, dataset.end_of_turn),
        "trained": lambda: verdicts.judge_trained(tokenizer, paths.start, recipe, dataset.end_of_turn),
        "template": lambda: verdicts.judge_template(tokenizer, rows, recipe["CHAT"]),
        "system message": lambda: verdicts.judge_system(tokenizer, rows, recipe["CHAT"]),
        "RoPE": lambda: verdicts.judge_rope(recipe, paths.start, longest, again),
        "length": lambda: verdicts.judge_length(recipe, rows, longest),
    }
    print(f"\nverdicts, of rows {places[0] + 1:,}..{places[-1] + 1:,} and the longest of {total:,}")
    wrong = []
    for subject, judge in judges.items():
        level, sentence = judge()
        print(f"  {level:7}  {subject}: {sentence}")
        wrong += [subject] if level == WRONG else []
    sys.stdout.flush()
    if wrong:
        raise Failure(f"WRONG: {', '.join(wrong)}; do what the lines above say, and inspect again")


if __name__ == "__main__":
    run(main)
