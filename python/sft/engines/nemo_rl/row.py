"""A row as NeMo-RL sees it."""

from sft.rows.dataset import SftDataset, View

# What view() does, in words.
RULE = "passthrough template, nothing added, loss on the whole answer, rows of SEQ_LEN or more masked"


def view(dataset: SftDataset, index: int) -> View:
    """A row as NeMo-RL's SFT sees it with the passthrough template and add_bos=false, add_eos=false.

    Prompt and answer are tokenized apart, nothing is added (7ea279a nemo_rl/data/llm_message_utils.py:598-640), and
    every token of the answer carries loss, with the newline after the end of turn (165-199; the very first token of a
    row is not a target, nemo_rl/algorithms/loss/loss_functions.py:818). A row of seq_len tokens or more is masked: of
    each message the first min(4, seq_len // 2) tokens stay in the batch (nemo_rl/data/processors.py:169-178).
    v0.7.0 has the same rules.
    """
    prompt, answer = (dataset.tokenizer.encode(text, add_special_tokens=False) for text in dataset.text(index))
    sizes = len(prompt), len(answer)
    over = max(0, sum(sizes) - dataset.seq_len + 1)
    if over:
        kept = min(4, dataset.seq_len // 2)
        prompt, answer = prompt[:kept], answer[:kept]
    loss = [i > 0 and i >= len(prompt) and not over for i in range(len(prompt) + len(answer))]
    return View(*sizes, prompt + answer, len(prompt), loss, len(loss), over)
