"""A row as nemo-automodel sees it."""

from sft.rows.dataset import IGNORE, SftDataset, View

# What view() does, in words.
RULE = "loss on the answer up to its end of turn, rows over SEQ_LEN masked"


def view(dataset: SftDataset, index: int) -> View:
    """As SftDataset gives it. Raises Failure for one that it refuses."""
    ids, labels = dataset.row(index)
    item = dataset.item(ids, labels)
    prompt = labels.count(IGNORE)
    seen, targets = item["input_ids"], [IGNORE, *item["labels"]]
    if targets[-1] != IGNORE:  # the last token is asked for but not given
        seen = [*seen, targets[-1]]
    loss = [target != IGNORE for target in targets[: len(seen)]]
    over = max(0, len(ids) - dataset.seq_len)
    return View(prompt, len(ids) - prompt, seen, min(prompt, len(seen)), loss, len(item["input_ids"]), over)
