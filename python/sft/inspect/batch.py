"""The batch that a row is in, as its engine puts rows together."""

from collections.abc import Sequence
from typing import Any

from sft.inspect.rows import BINS, MEMBERS
from sft.inspect.verdicts import Row
from sft.recipe.engines import engine_of, replicas, sequence_unit
from sft.recipe.keys import Recipe
from sft.rows.dataset import IGNORE
from sft.rows.packing import deal, fill, pack

# --- showing a batch ---------------------------------------------------------------------------------------------


def listed(values: Sequence[object], full: bool) -> str:
    """Values in a line, the later ones as a count."""
    words = [f"{v:,}" if isinstance(v, int) else str(v) for v in values]
    if full or len(words) <= MEMBERS:
        return " ".join(words)
    return f"{' '.join(words[:MEMBERS])} … {len(words) - MEMBERS:,} more"


def in_order(recipe: Recipe) -> bool:
    """Whether a step trains on rows that stand together in the file: nemo-automodel with SHUFFLE=false."""
    return engine_of(recipe).bins == "in_order" and not recipe["SHUFFLE"]


def show_filled(recipe: Recipe, rows: Sequence[Row], full: bool, asked: int | None) -> None:
    """Bins as automodel/packed.py makes them of a step's rows, which stay in their order.

    No row is padded and no bin: it is as long as its rows. Position ids start again with each row, and a mask keeps it
    from the others. asked: the number of a row whose bin is always shown.
    """
    dp, batch, capacity = replicas(recipe), recipe["GLOBAL_BATCH"], recipe["SEQ_LEN"]
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


def show_packed(recipe: Recipe, rows: Sequence[Row], full: bool) -> None:
    """Bins as NeMo-RL makes them of a global batch (7ea279a nemo_rl/distributed/batched_data_dict.py:591-660).

    Each row is padded, with id 0, and the position ids start again at each padded boundary: none are handed over
    (nemo_rl/models/megatron/data.py:559-561, 1084), Megatron counts from the last in cu_seqlens
    (Megatron-LM 00c51e1 megatron/core/models/common/embeddings/rope_utils.py, _apply_rotary_pos_emb_thd).
    """
    unit, dp, batch = sequence_unit(recipe), replicas(recipe), recipe["GLOBAL_BATCH"]
    capacity = recipe["SEQ_LEN"] * recipe["MICRO_BATCH"]
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


def show_padded(recipe: Recipe, rows: Sequence[Row], tokenizer: Any, full: bool) -> None:
    """Micro batches of PACKING=false, each row padded on the right.

    automodel: to the longest of its micro batch, with input id 0 whatever the tokenizer's padding token is, since the
    dataset names none; no position ids are handed over, the model counts every row from 0 (nemo-automodel 0.7.0
    components/datasets/utils.py default_collater and get_pad_token_from_key, components/models/qwen2/model.py).
    nemo-rl: to the longest of the global batch, rounded up, with the tokenizer's padding token
    (7ea279a nemo_rl/algorithms/sft.py:455-460, nemo_rl/data/llm_message_utils.py:257-430).
    """
    size = recipe["MICRO_BATCH"]
    groups = [rows[i : i + size] for i in range(0, len(rows), size)]
    if engine_of(recipe).pads:
        unit = sequence_unit(recipe)
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


def show_batch(recipe: Recipe, rows: Sequence[Row], tokenizer: Any, full: bool, asked: int | None = None) -> None:
    """The rows read that train in one step; of a shuffled run, rows that might."""
    batch = recipe["GLOBAL_BATCH"]
    part = "a global batch" if len(rows) == batch else f"{len(rows)} of the {batch:,} of a global batch"
    order = "which training shuffles"
    if in_order(recipe):
        order = f"which training keeps: step {(rows[0].number - 1) // batch + 1:,}"
    print(f"\nbatch: rows {rows[0].number:,}..{rows[-1].number:,}, {part}, in the file's order, {order}")
    sound = [row for row in rows if not row.fault]
    if not sound:
        print("  training stops at these rows")
    elif recipe["PACKING"] and engine_of(recipe).bins == "in_order":
        show_filled(recipe, sound, full, asked)
    elif recipe["PACKING"]:
        show_packed(recipe, sound, full)
    else:
        show_padded(recipe, sound, tokenizer, full)
