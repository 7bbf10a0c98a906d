"""Make SFT data from model generations: read, filter, group, sample and format them -> input/output JSONL.

    python python/sft_data.py --name mydata --input-files 'gen/output-rs*.jsonl' --tokenizer dir \\
        --prompt-config generic/math

Writes WORK/data/<name>/round1/all.jsonl and DONE. Options, their order of work and the rows that come out are those of
nemo_skills.training.prepare_data with math_sft.yaml (NeMo-Skills 8b18f39
nemo_skills/training/data_preparation_utils/), so that its results can be had byte for byte; the README lists where
they differ. Texts go through worker processes in blocks and wait on disk: the memory does not grow with the rows but
for some 200 bytes each while they are put in order.
"""

import json
import os
import re
import shutil
import struct
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, NamedTuple

import control
import lib
import sft_options
from chat_template import PINNED
from file_sets import check_no_copies
from lib import Failure, Progress, log, usage
from parallel import cores, run_all
from sft_filters import CHANGED, DROPPED, EDITS, FILTERS, enabled, incomplete
from sft_options import KEYS_TO_KEEP, Options, Prompt, Row, truth

BLOCK_BYTES = 4 << 20  # of text that a worker takes at a time


class Template(NamedTuple):
    """A tokenizer's chat template, None if it has none, and its special tokens."""

    text: str | None
    special: dict[str, str]


class Job(NamedTuple):
    """What there is to do: the options, and what they name, read and checked."""

    options: Options
    prompt: Prompt | None
    contaminated: set[str]
    code: str | None  # what a piece of code begins with
    template: Template | None = None


# --- first pass: read, filter, spool -------------------------------------------------------------------------------


class Block(NamedTuple):
    """Whole lines of an input file, for a worker."""

    number: int
    path: Path
    graded: bool  # whether it is one of --input-files
    offset: int
    length: int  # bytes
    line: int  # number of the first


# Of a row: hashes of what it was, of its problem, of what it has become; where it is in which spool; which filters
# changed it (bits); the filter that dropped it, from 1; whether it has code.
INDEX = struct.Struct("<16s16s16sQIIIBB")
INDEX_FIELDS = [("source", "<u8", 2), ("problem", "<u8", 2), ("result", "<u8", 2), ("offset", "<u8"), ("length", "<u4")]
INDEX_FIELDS += [("spool", "<u4"), ("changed", "<u4"), ("dropped", "u1"), ("code", "u1")]
PLACE = struct.Struct("<QII")
PLACE_FIELDS = [("offset", "<u8"), ("length", "<u4"), ("spool", "<u4")]


def scan(files: list[tuple[Path, bool]]) -> tuple[dict[str, str], list[Block], int]:
    """sha256 of each file, the blocks that they are worked in, and the number of their lines."""
    digests, blocks, lines = {}, [], 0
    progress = Progress("bytes looked at", sum(path.stat().st_size for path, _ in files))
    seen = 0
    for path, graded in files:
        digest, offset, line = sha256(), 0, 1
        with open(path, "rb") as file:
            while text := file.read(BLOCK_BYTES):
                text += file.readline()
                digest.update(text)
                blocks.append(Block(len(blocks), path, graded, offset, len(text), line))
                offset += len(text)
                line += text.count(b"\n") + (not text.endswith(b"\n"))
                progress.show(seen + offset)
        digests[str(path.absolute())] = digest.hexdigest()
        seen += offset
        lines += line - 1
    return digests, blocks, lines


# What judges write around the two words that they are asked for: emphasis, headings, quotes, either spelling.
MARKS = r"[\s*_`#\"'\u201c\u201d(\[]*"
VERDICT = re.compile(rf"judge?ment{MARKS}[:\uff1a]{MARKS}(?:(yes|no)\b(?!\s*(?:/|\bor\b)\s*(?:yes|no)\b))?", re.I)


def is_correct(judgement: str) -> bool | None:
    """What a judge's last verdict says; None when it cannot be read: cut off, "Yes/No", or another word.

    nemo_skills/evaluation/metrics/utils.py:36, which knows one spelling and takes all else for No.
    """
    verdicts = VERDICT.findall(judgement)
    return {"yes": True, "no": False}.get(verdicts[-1].lower()) if verdicts else None


def number_or_text(row: Row, key: str) -> str:
    """A value that may be written as either (preprocessing.py writes str() of whatever it is). Raises ValueError."""
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"field {key!r} is {type(value).__name__}, neither text nor number")
    return str(value)


def text_of(row: Row, key: str) -> str:
    if not isinstance(row.get(key), str):
        raise ValueError(f"no text in field {key!r}")
    return row[key]


class Filtering:
    """A worker of the first pass: reads and filters blocks; the rows that are left go to a spool file of its own."""

    def __init__(self, job: Job, folder: Path):
        self.options, self.code = job.options, job.code
        self.fields = job.prompt.fields() if job.prompt else []
        self.filters = [FILTERS[name](job.options, job.contaminated) for name in enabled(job.options)]
        self.keys = {job.options.input_key, job.options.output_key, *KEYS_TO_KEEP}
        self.spool = open(folder / str(os.getpid()), "ab")

    def block(self, block: Block) -> tuple[Counter[str], bytes]:
        """Numbers of rows that were not taken, by reason, and an INDEX record of each that was.

        Raises Failure naming file and line of a row that is none.
        """
        with open(block.path, "rb") as file:
            file.seek(block.offset)
            text = file.read(block.length)
        if len(text) != block.length:
            raise Failure(f"{block.path} became shorter while it was read; run it again when it is complete")
        lines = text.removesuffix(b"\n").split(b"\n")  # not splitlines, for which more than that ends a line
        left_out: Counter[str] = Counter()
        index, spool = bytearray(), []
        offset = self.spool.tell()
        for number, line in enumerate(lines, block.line):
            if number <= self.options.skip_first:
                left_out["skip_first"] += 1
                continue
            try:
                row, reason = self.read(line, block.graded)
                if row is None:
                    left_out[reason] += 1
                    continue
                record, stored = self.filter(row, f"{block.path}:{number}", offset)
            except ValueError as error:
                raise Failure(f"{block.path}:{number}: {error}; mend or remove it") from None
            index += record
            spool.append(stored)
            offset += len(stored)
        self.spool.writelines(spool)
        self.spool.flush()
        return left_out, bytes(index)

    def read(self, line: bytes, graded: bool) -> tuple[Row | None, str]:
        """A row, or None and why it is not taken (preprocessing.py:107-152). Raises ValueError."""
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"malformed JSON line ({error})") from None
        if not isinstance(row, dict):
            raise ValueError("malformed JSON line (not an object)")
        o = self.options
        if graded and not row:
            return None, "empty"
        if graded and not o.add_unlabeled:
            grade = "judgement" if o.use_judgement else "symbolic_correct"
            if grade not in row:
                return None, "unlabeled"
            correct = is_correct(text_of(row, grade)) if o.use_judgement else truth(row, grade)
            if correct is None:  # neither right nor wrong
                return None, "unreadable" if o.use_judgement else "unlabeled"
            if not (o.add_correct if correct else o.add_incorrect):
                return None, "correctness"
        return row, ""

    def filter(self, row: Row, where: str, offset: int) -> tuple[bytes, bytes]:
        """The INDEX record of a row, and what of it goes to the spool at `offset`. Raises ValueError, Failure."""
        o = self.options
        row = {key: value for key, value in row.items() if key in self.keys}
        problem, solution = text_of(row, o.input_key), text_of(row, o.output_key)
        group = blake2b(b"%d\0" % len(problem) + problem.encode(), digest_size=16)
        source, result = group.copy(), group.copy()
        source.update(solution.encode())
        changed = 0
        for number, apply in enumerate(self.filters):
            verdict = apply(row)
            if verdict == DROPPED:
                record = INDEX.pack(source.digest(), b"", b"", 0, 0, 0, changed, number + 1, 0)
                return record, b""
            changed |= (verdict == CHANGED) << number
        self.check(row, where)
        result.update(row[o.output_key].encode())
        stored = json.dumps([where, row]).encode()
        code = self.code is not None and self.code in row[o.output_key]
        hashes = source.digest(), group.digest(), result.digest()
        return INDEX.pack(*hashes, offset, len(stored), os.getpid(), changed, 0, code), stored

    def check(self, row: Row, where: str) -> None:
        """Refuse a row that the second pass could not format."""
        if row.get("expected_answer") is not None:
            number_or_text(row, "expected_answer")
        incomplete(row)
        if self.options.tokenizer is None:
            return
        for field in self.fields:
            if field not in row:
                raise ValueError(f"no field {field!r}, which the prompt asks for")
        if row.get("expected_answer", "") is None and "expected_answer" in self.fields:
            raise ValueError("field 'expected_answer' is null, which the prompt asks for")
        thinking = row.get("reasoning_content")
        if not isinstance(thinking, str | None):
            raise ValueError("no text in field 'reasoning_content'")
        if thinking and incomplete(row):  # preprocessing.py:401
            raise Failure(f"{where}: reasoning_content of a generation that was cut off; give --drop-incomplete")
        if thinking and self.options.assistant_end is not None:  # preprocessing.py:396
            raise Failure(f"{where}: --assistant-end leaves no place for reasoning_content; do without one of them")


# --- between the passes: which rows, in which order ----------------------------------------------------------------


class Chosen(NamedTuple):
    """What `choose` says of the rows."""

    dropped: dict[str, int]
    changed: dict[str, int]
    rows: int
    cuts: list[int]  # where in their order a block ends


def choose(task: tuple[Options, Path]) -> Chosen:
    """Write the PLACEs of the rows that stay to folder/order, in their order, from the INDEX in folder/index.

    In a process of its own: numpy starts threads, and its memory goes back when it is done.
    """
    import numpy as np

    options, folder = task
    # An empty file cannot be mapped.
    size = (folder / "index").stat().st_size // INDEX.size
    table = np.memmap(folder / "index", np.dtype(INDEX_FIELDS), "r") if size else np.zeros(0, np.dtype(INDEX_FIELDS))
    dropped: dict[str, int] = {}

    def groups(hashes: Any) -> tuple[Any, Any]:
        """Position of the first of each group of equal hashes, ascending, and the number of each hash's group."""
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable
        new = np.zeros(len(order), bool)
        new[:1] = True
        for half in hashes[:, 0], hashes[:, 1]:
            ordered = half[order]
            new[1:] |= ordered[1:] != ordered[:-1]
        member = np.empty(len(order), np.int64)
        member[order] = np.cumsum(new) - 1
        firsts = order[new]
        rank = np.empty(len(firsts), np.int64)
        rank[np.argsort(firsts)] = np.arange(len(firsts))
        return np.sort(firsts), rank[member]

    rows = np.arange(size)
    if options.deduplicate:  # preprocessing.py:180
        rows, _ = groups(table["source"])
    dropped["duplicates"] = size - len(rows)

    verdicts, changes = table["dropped"][rows], table["changed"][rows]
    changed = {}
    for number, name in enumerate(enabled(options)):
        if name in EDITS:
            changed[name] = int((changes >> number & 1).sum())
        else:
            dropped[name] = int((verdicts == number + 1).sum())
    rows = rows[verdicts == 0]

    # Problems in the order in which they first appear, solutions of each in input order (preprocessing.py:222).
    _, problem = groups(table["problem"][rows])
    order = np.argsort(problem, kind="stable")
    rows, problem = rows[order], problem[order]

    if kind := options.code_text_filter:  # filters.py:399
        code = table["code"][rows].astype(bool)
        solutions, with_code = np.bincount(problem), np.bincount(problem[code], minlength=problem.max(initial=-1) + 1)
        most = (with_code > solutions // 2)[problem]
        wanted = {
            "all": code,
            "majority_code": code | ~most,
            "majority_text": code == most,
            "any_code": code == (with_code > 0)[problem],
        }[kind]
        dropped["code_text_filter"] = int((~wanted).sum())
        rows, problem, code = rows[wanted], problem[wanted], code[wanted]
        order = np.lexsort((~code, problem))  # those with code first, stable
        rows, problem = rows[order], problem[order]

    # preprocessing.py:264-306, but for as many rows as asked for: there upstream keeps none.
    number, before = options.num_output_samples, len(rows)
    if options.downsampling_method == "fair" and number < before:
        solutions = np.bincount(problem)
        begin = np.cumsum(solutions) - solutions
        rows = rows[np.lexsort((problem, np.arange(before) - begin[problem]))[:number]]
    if options.shuffle:
        # random's own order: that of upstream, which shuffles as many rows.
        import random

        positions = array("q", rows.astype("<i8").tobytes())
        random.Random(options.random_seed).shuffle(positions)
        rows = np.frombuffer(positions, np.int64)
    if options.downsampling_method == "random":
        rows = rows[:number]
    if number:
        dropped["downsampling"] = before - len(rows)

    before = len(rows)
    firsts, _ = groups(table["result"][rows])  # preprocessing.py:371
    rows = rows[firsts]
    dropped["duplicates_after_filters"] = before - len(rows)

    places = np.empty(len(rows), np.dtype(PLACE_FIELDS))
    for field in places.dtype.names or ():
        places[field] = table[field][rows]
    places.tofile(folder / "order")
    cuts = np.flatnonzero(np.diff(np.cumsum(places["length"].astype(np.int64)) // BLOCK_BYTES)) + 1
    return Chosen(dropped, changed, len(rows), [*cuts.tolist(), len(rows)] if len(rows) else [])


# --- second pass: format, write --------------------------------------------------------------------------------------


class Formatting:
    """A worker of the second pass: formats rows of the spool (preprocessing.py:357-412)."""

    def __init__(self, job: Job, folder: Path):
        self.options, self.prompt, self.template, self.folder = job.options, job.prompt, job.template, folder
        self.spools: dict[int, int] = {}
        self.begin: str | None = None
        if job.template and job.template.text:
            from transformers.utils.chat_template_utils import render_jinja_template

            self.render_all = render_jinja_template

    def block(self, task: tuple[int, int, int]) -> tuple[int, control.Counts, bytes]:
        """How many rows of (block's number, first row, end) get no end of turn, the control tokens in their texts, and
        their lines. Raises Failure."""
        _, first, end = task
        with open(self.folder / "order", "rb") as file:
            file.seek(first * PLACE.size)
            places = file.read((end - first) * PLACE.size)
        cut_off, lines = 0, []
        tokens: control.Counts = {}
        for offset, length, spool in PLACE.iter_unpack(places):
            if spool not in self.spools:
                self.spools[spool] = os.open(self.folder / str(spool), os.O_RDONLY)
            where, row = json.loads(os.pread(self.spools[spool], length, offset))
            cut_off += self.prompt is not None and incomplete(row)
            for kind, key in (("problem", self.options.input_key), ("answer", self.options.output_key)):
                control.add(tokens, kind, (row[key],))
            try:
                lines.append(json.dumps(self.row(row)) + "\n")  # upstream's bytes: all ASCII, blanks after , and :
            except ValueError as error:
                raise Failure(f"{where}: {error}; mend or remove it") from None
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
        """As chat_template.render, without loading the tokenizer and torch in each worker."""
        assert self.template
        import jinja2

        variables = PINNED | self.template.special | (self.options.chat_template_kwargs or {})
        try:
            rendered, _ = self.render_all(
                [messages], chat_template=self.template.text, add_generation_prompt=generation_prompt, **variables
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise ValueError(f"the chat template fails ({str(error)[:120]})") from None
        return rendered[0]

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


# A worker's state; None in the parent.
filtering: Filtering | None = None
formatting: Formatting | None = None


def open_filtering(*arguments: Any) -> None:
    global filtering
    filtering = Filtering(*arguments)


def open_formatting(*arguments: Any) -> None:
    global formatting
    formatting = Formatting(*arguments)


def filter_block(block: Block) -> tuple[Counter[str], bytes]:
    assert filtering
    return filtering.block(block)


def format_block(task: tuple[int, int, int]) -> tuple[int, control.Counts, bytes]:
    assert formatting
    return formatting.block(task)


def in_turn(results: Iterator[tuple[int, bytes]], folder: Path) -> Iterator[bytes]:
    """Numbered blocks in their order. One that comes before its turn waits on disk, not in memory."""
    due = 0
    for number, block in results:
        if number != due:
            (folder / f"early{number}").write_bytes(block)
            continue
        yield block
        due += 1
        while (early := folder / f"early{due}").is_file():
            yield early.read_bytes()
            early.unlink()
            due += 1


def alone(function: Callable[[Any], Any], task: Any) -> Any:
    """The result of a function in a process of its own."""
    return next(result for _, result in run_all(function, [task], 1))


def prepare(job: Job, blocks: list[Block], lines: int, part: Path) -> Row:
    """Write part/all.jsonl from the blocks; returns the facts: numbers of rows. Raises Failure."""
    processes = cores(job.options.workers)
    spool = part / "spool"
    spool.mkdir()
    left_out: Counter[str] = Counter()
    progress, read = Progress("rows read", lines), 0

    def filtered() -> Iterator[tuple[int, bytes]]:
        nonlocal read
        used = max(1, min(processes, len(blocks)))
        for block, (counts, index) in run_all(filter_block, blocks, used, open_filtering, (job, spool)):
            left_out.update(counts)
            read += counts.total() + len(index) // INDEX.size
            progress.show(read)
            yield block.number, index

    with open(spool / "index", "wb") as file:
        file.writelines(in_turn(filtered(), spool))
    chosen: Chosen = alone(choose, (job.options, spool))
    reasons = ("skip_first", "empty", "unlabeled", "unreadable", "correctness")
    dropped = {reason: left_out[reason] for reason in reasons} | chosen.dropped
    if not chosen.rows:
        why = ", ".join(f"{reason} drops {count:,}" for reason, count in dropped.items() if count)
        raise Failure(f"no row is left of {read:,} ({why or 'the input is empty'}); correct the options or the input")

    tasks = [(n, a, b) for n, (a, b) in enumerate(zip([0, *chosen.cuts], chosen.cuts, strict=False))]
    progress, written, cut_off = Progress("rows written", chosen.rows), 0, 0
    tokens: list[control.Counts] = []

    def formatted() -> Iterator[tuple[int, bytes]]:
        nonlocal cut_off, written
        used = min(processes, len(tasks))
        made = run_all(format_block, tasks, used, open_formatting, (job, spool))
        for (number, first, end), (some, found, text) in made:
            cut_off += some
            tokens.append(found)
            written += end - first
            progress.show(written)
            yield number, text

    with open(part / "all.jsonl", "wb") as file:
        file.writelines(in_turn(formatted(), spool))
    shutil.rmtree(spool)
    return {
        "rows_read": read,
        "dropped": dropped,
        "modified": chosen.changed,
        "rows": {"all": chosen.rows},
        "without_end_of_turn": cut_off,
        "control_tokens": control.merge(tokens),
    }


def report(target: Path, facts: Row) -> None:
    log(f"sft-data: {facts['rows_read']:,} rows read")
    if count := facts["dropped"]["unreadable"]:
        log(f"sft-data: {count:,} judgements say neither Yes nor No after their last 'Judgement:'; taken for neither")
    for what in ("dropped", "modified"):
        for reason, count in facts[what].items():
            if count or reason in FILTERS:
                log(f"sft-data: {what} {count:,} ({reason})")
    if count := facts["without_end_of_turn"]:
        log(f"sft-data: {count:,} generations that were cut off have no end of turn; --drop-incomplete drops them")
    if found := control.sentence(facts["control_tokens"]):
        log(f"sft-data: {found}")
    log(f"sft-data: {facts['rows']['all']:,} rows kept in {target / 'all.jsonl'}")


def main() -> None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    options = sft_options.parser(__doc__).parse_args()
    sft_options.check(options)
    files = [
        (path, name == "input_files")
        for name in ("input_files", "preprocessed_dataset_files")
        for path in sft_options.find_files(name, getattr(options, name) or "")
    ]
    if not files:
        usage("no input; set INPUT (--input-files) or --preprocessed-dataset-files")
    contaminated: set[str] = set()
    if options.contamination_file is not None:
        contaminated = sft_options.contaminated_problems(Path(options.contamination_file))
    job = Job(options, sft_options.load_prompt(options), contaminated, sft_options.code_begin(options))
    sft_options.check_counter(options, job.prompt)

    target = Path(options.work).resolve() / "data" / options.name / "round1"
    keys = sft_options.result_keys(options)
    inputs, blocks, lines = scan(files)
    check_no_copies({name: digest for name, digest in inputs.items() if Path(name).stat().st_size})
    inputs |= {str(path.absolute()): lib.sha256(path) for path in sft_options.other_files(options)}
    if lib.is_done(target, keys, inputs):
        log(f"sft-data: {target} is already there")
        return
    if target.exists():
        raise Failure(f"{target} is there without DONE; move it away or set another NAME")
    if job.prompt:
        job = job._replace(template=alone(load_template, job))
    with lib.new_folder(target) as part:
        facts = prepare(job, blocks, lines, part)
        lib.write_done(part, keys, inputs, **facts, **lib.describe(part))
    report(target, facts)


if __name__ == "__main__":
    lib.run(main)
