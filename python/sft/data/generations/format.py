"""A generation as a training row: the prompt's template filled in."""

import json
from pathlib import Path

from sft.data.generations.blocks import Job, Template, number_or_text
from sft.data.generations.options import Row
from sft.data.generations.rules import incomplete
from sft.lib.errors import Failure, usage
from sft.rows import control, spool
from sft.rows.chat import render_text

# --- second pass: format, write --------------------------------------------------------------------------------------


class Formatting:
    """A worker of the second pass: formats rows of the spool (preprocessing.py:357-412)."""

    def __init__(self, job: Job, folder: Path):
        self.options, self.prompt, self.template, self.folder = job.options, job.prompt, job.template, folder
        self.begin: str | None = None

    def block(self, task: tuple[int, int, int]) -> tuple[int, control.Counts, bytes]:
        """How many rows of (block's number, first row, end) get no end of turn, the control tokens in their texts, and
        their lines. Raises Failure."""
        import numpy as np

        _, first, end = task
        place = np.dtype(spool.PLACE)
        places = np.fromfile(self.folder / "order", place, end - first, offset=first * place.itemsize)
        cut_off, lines = 0, []
        tokens: control.Counts = {}
        files = {number: self.folder / str(number) for number in set(places["file"].tolist())}
        for line in spool.read(files, places).split(b"\n")[:-1]:
            where, row = json.loads(line)
            cut_off += self.prompt is not None and incomplete(row)
            for kind, key in (("problem", self.options.input_key), ("answer", self.options.output_key)):
                control.add(tokens, kind, (row[key],))
            try:
                lines.append(json.dumps(self.row(row)) + "\n")  # upstream's bytes: all ASCII, blanks after , and :
            except ValueError as error:
                raise Failure(f"{where}: {error}; fix or remove it") from None
        return cut_off, tokens, "".join(lines).encode()

    def row(self, row: Row) -> Row:
        """What is written for a row. Raises ValueError, Failure."""
        o = self.options
        result: Row = {}
        if o.keep_optional_keys:
            result |= row
        elif row.get("expected_answer") is not None:
            result["expected_answer"] = number_or_text(row, "expected_answer")
        solution = row.pop(o.output_key)
        if self.prompt is None:
            result |= {"input": row[o.input_key], "output": solution}
        else:
            if row.get("expected_answer") is not None:
                row["expected_answer"] = number_or_text(row, "expected_answer")
            result["input"] = self.question(row)
            if incomplete(row):
                result["output"] = solution
            elif o.assistant_end is not None:
                result["output"] = solution + o.assistant_end
            else:
                result["output"] = self.answer(solution, row.get("reasoning_content"))
        return result | (o.metadata or {})

    def render(self, messages: list[Row], generation_prompt: bool) -> str:
        """The conversation as the template of --tokenizer has it. Raises ValueError."""
        assert self.template and self.template.text
        variables = self.template.special | (self.options.chat_template_kwargs or {})
        return render_text(self.template.text, messages, generation_prompt, **variables)

    def question(self, row: Row) -> str:
        """nemo_skills/prompt/utils.py:243."""
        assert self.prompt and self.template
        try:
            user = self.prompt.user.format(examples="", **row)
        except (LookupError, AttributeError, TypeError) as error:
            raise ValueError(f"the prompt cannot be filled in ({error})") from None
        if not self.template.text:  # a base model's tokenizer
            return self.template.special.get("bos_token", "") + user
        system = [] if self.prompt.system is None else [{"role": "system", "content": self.prompt.system}]
        return self.render([*system, {"role": "user", "content": user}], True)

    def answer(self, solution: str, thinking: str | None) -> str:
        """What the template makes of a solution after an empty question (nemo_skills/prompt/utils.py:210)."""
        turns: list[Row] = [{"role": "user", "content": ""}]
        if self.begin is None:
            self.begin = self.render(turns, True)
        turns.append({"role": "assistant", "content": solution})
        if thinking is not None:
            turns[1]["thinking"] = thinking
        whole = self.render(turns, False)
        if not whole.startswith(self.begin):
            raise Failure(
                "the chat template writes an answer that does not go on from its prompt; give --assistant-end"
            )
        if thinking is not None and thinking not in whole:
            raise ValueError("the chat template leaves reasoning_content out; put it in the solution")
        return whole[len(self.begin) :]


def load_template(job: Job) -> Template:
    """The chat template of --tokenizer, tried on a row. In a process of its own, for its memory. Raises Failure."""
    from transformers import PreTrainedTokenizerFast

    options, prompt = job.options, job.prompt
    assert prompt
    try:
        # Not AutoTokenizer, which takes its template and special tokens from the same files, but imports torch.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(options.tokenizer)
        special = tokenizer.special_tokens_map
    except Exception as error:  # the library raises whatever its files lead to
        reason = " ".join(str(error).split())[:120]
        raise Failure(f"--tokenizer: {options.tokenizer} cannot be loaded ({reason}); fetch it again") from None
    try:
        text = tokenizer.get_chat_template(tools=(options.chat_template_kwargs or {}).get("tools"))
    except ValueError:
        text = None
        if options.assistant_end is None or prompt.system is not None:
            usage(f"--tokenizer: {options.tokenizer} has no chat template; give --assistant-end, and no system message")
    template = Template(text, special)
    row = dict.fromkeys((*prompt.fields(), options.input_key, options.output_key), "1")
    try:
        Formatting(job._replace(template=template), Path()).row(row)
    except ValueError as error:
        raise Failure(f"--tokenizer: {error}; correct the prompt or --chat-template-kwargs") from None
    return template


def prompt_frame(job: Job) -> list[str] | None:
    """What stands before and after the problem in each prompt, for an evaluation to ask likewise; None where the prompt
    takes more of a row than that. In a process of its own, as load_template."""
    assert job.prompt
    key, mark = job.options.input_key, "\ue000"
    if job.prompt.fields() != [key]:
        return None
    parts = Formatting(job, Path()).question({key: mark}).split(mark)
    return parts if len(parts) == 2 else None
