"""The Llama-Nemotron data's rows: the tutorial's filters in its order, the rendering and the counts of tokens.

Rules: NeMo Curator 1e2e427 tutorials/text/llama-nemotron-data-curation, main.py:85-190 for their order and
filters/{heuristic,model}_filters.py for each. Two variants differ:

                     corrected                                  published
used_in_training     a word of the string or of a list's        the name occurs in the string
                     element is the name
\\boxed              in a message of the input, not in the      never drops a row: the input is a list, in which
                     output                                     pandas finds no text (heuristic_filters.py:60-67)
tokens of a row      input and output tokenized apart, as       the whole rendering, with the special tokens (a second
                     they are trained                           BOS) that encoding adds (model_filters.py:150-178)
completion tokens    of the output                              of a rendering of the answer alone, with the template's
                     (completion_token_count)                   system block and header and a second BOS (234-254)

Here any other value of `reasoning` than "on" and "off" is a fault of the data, and so is a field that is not there.
"""

import hashlib
import json
import mmap
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from chat_template import PINNED, Message
from lib import Failure, read_json, read_jsonl, sha256

MODES = ("on", "off")
FIELDS = ("input", "output", "reasoning", "system_prompt", "used_in_training")
# By which a row goes, in the order in which they are asked. The last two are not the tutorial's.
FILTERS = (
    "used_in_training",
    "empty_think",
    "boxed",
    "unclosed_think",
    "think_tags",
    "english",
    "total_tokens",
    "completion_tokens",
    "decontamination",
    "duplicate",
)
OPEN, CLOSE = "<think>", "</think>"
EMPTY = (f"{OPEN}\n\n{CLOSE}", f"{OPEN}\n{CLOSE}", f"{OPEN}{CLOSE}")  # heuristic_filters.py:46-54
GRAM = 13  # words in a row that say that a text was seen
WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Rules:
    """What the recipe says of the filters; limits are tokens, and a row of just so many stays."""

    used_in: str
    max_tokens: int
    max_completion: int
    published: bool


@dataclass
class Row:
    """A row of the data set, checked: messages without the answer, `used` as written."""

    mode: str
    messages: list[Message]
    output: str
    used: Sequence[str]
    listed: bool


def text(name: str, value: Any) -> str:
    """Raises ValueError naming a field that is missing, null or not text."""
    if not isinstance(value, str):
        what = "not there" if value is ... else "null" if value is None else type(value).__name__
        raise ValueError(f"field {name!r} is {what}, no text")
    return value


def read_row(turns: Any, output: Any, reasoning: Any, system: Any, used: Any) -> Row:
    """A row of its FIELDS; ... stands for one that is not there. Raises ValueError naming what is wrong."""
    if text("reasoning", reasoning) not in MODES:
        raise ValueError(f"reasoning is {reasoning[:40]!r}, neither 'on' nor 'off'")
    if turns is ... or not isinstance(turns, list) or not turns:
        raise ValueError(f"field 'input' is {'not there' if turns is ... else 'no list of messages'}")
    messages = [{"role": "system", "content": text("system_prompt", system)}]
    for turn in turns:
        if not isinstance(turn, dict):
            raise ValueError("field 'input' holds something else than messages")
        messages.append({name: text(f"input.{name}", turn.get(name, ...)) for name in ("role", "content")})
    listed = isinstance(used, list)
    if used is ...:
        raise ValueError("field 'used_in_training' is not there")
    names = used if listed else [] if used is None else [text("used_in_training", used)]
    return Row(reasoning, messages, text("output", output), [text("used_in_training", name) for name in names], listed)


def used_in(name: str, row: Row, published: bool) -> bool:
    """Whether a row was used in the training of the model `name`. heuristic_filters.py:34-42.

    The published filter looks for the name anywhere in the string, and ends on a list; here it looks in each element.
    """
    name = name.lower()
    if published:
        return any(name in value.lower() for value in row.used)
    return any(name == value.strip().lower() or name in WORD.findall(value.lower()) for value in row.used)


def by_text(rules: Rules, row: Row) -> str | None:
    """The first filter by which a row goes, of those that look at its fields alone."""
    output = row.output
    if not used_in(rules.used_in, row, rules.published):
        return "used_in_training"
    if any(tags in output for tags in EMPTY):
        return "empty_think"
    if not rules.published and "\\boxed" not in output and any("\\boxed" in m["content"] for m in row.messages[1:]):
        return "boxed"
    opened, closed = OPEN in output, CLOSE in output
    if opened and not closed:
        return "unclosed_think"
    if (opened and closed) if row.mode == "on" else not (opened or closed):
        return None
    return "think_tags"


# --- rendering ---------------------------------------------------------------------------------------------------


class Template:
    """The chat template of a tokenizer, compiled once, as chat_template.render does it."""

    def __init__(self, folder: Path):
        import jinja2

        self.folder = folder
        self.text, self.special = template_of(folder)
        try:
            self.template = environment().from_string(self.text)
        except jinja2.TemplateError as error:
            why = str(error).partition("\n")[0][:100]
            raise Failure(f"{folder}: its chat template cannot be read ({why}); fetch it again") from None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps([self.text, self.special], sort_keys=True).encode()).hexdigest()

    def render(self, messages: list[Message], prompt: bool = False) -> str:
        """The conversation as text; prompt: with the header of the answer that is to come. Raises ValueError."""
        import jinja2

        try:
            return self.template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=prompt,
                **PINNED,
                **self.special,
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise ValueError(f"the chat template refuses it ({str(error)[:100]})") from None

    def split(self, messages: list[Message], answer: str) -> tuple[str, str]:
        """(prompt, completion) of a conversation and its answer, which together are its whole rendering.

        model_filters.py:306-331. Raises ValueError when the prompt is not what the whole begins with.
        """
        prompt = self.render(messages, prompt=True)
        whole = self.render([*messages, {"role": "assistant", "content": answer}])
        if not whole.startswith(prompt):
            raise ValueError("the chat template renders its prompt differently when the answer follows")
        return prompt, whole[len(prompt) :]


def template_of(folder: Path) -> tuple[str, dict[str, str]]:
    """(chat template, special tokens by name) of a tokenizer's folder. Raises Failure when it has no template."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            config |= read_json(folder / name)
    found = config.get("chat_template")
    if isinstance(found, list):  # named ones, of which the default is taken
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    if (folder / "chat_template.jinja").is_file():
        found = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if not isinstance(found, str) or not found.strip():
        raise Failure(f"{folder} has no chat template; set TOKENIZER to the folder of a model that chats")
    special = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in config.items()
        if re.fullmatch(r"(bos|eos|unk|sep|pad|cls|mask)_token", name) and value is not None
    }
    return found, special


@cache
def environment() -> Any:
    """Jinja as chat templates expect it (transformers v5.18.0 utils/chat_template_utils.py)."""
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """{% generation %} marks the answer for a mask, and renders as what it holds."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    found = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    found.filters["tojson"] = tojson
    found.globals["raise_exception"] = refuse
    return found


# --- tokens ------------------------------------------------------------------------------------------------------


@dataclass
class Tokens:
    """Counts tokens of rendered rows as a variant does; prompt and completion are tokenized once."""

    counter: Any
    template: Template
    published: bool
    heads: dict[str, int] = field(default_factory=dict)

    def limits(self, rules: Rules, prompt: str, completion: str, answer: str) -> tuple[str | None, int, int]:
        """(the filter by which a row goes, tokens in all, tokens of the completion); counts of a row that goes are 0.

        model_filters.py:150-178, 234-254. answer: the assistant's message, which completion renders. Raises ValueError.
        """
        body = self.counter.rendered(completion, rules.max_tokens)
        if body is None:  # the prompt need not be counted
            return "total_tokens", 0, 0
        if not self.published or self.parts_add_up(prompt, completion):
            total = self.counter.rendered(prompt) + body
        else:
            total = self.counter.rendered(prompt + completion)
        if self.published:
            total += self.counter.around
            body = self.alone(completion, answer, body)
        if not 0 < total <= rules.max_tokens:
            return "total_tokens", 0, 0
        if not 0 < body <= rules.max_completion:
            return "completion_tokens", 0, 0
        return None, total, body

    def parts_add_up(self, prompt: str, completion: str) -> bool:
        """Whether the two together have as many tokens as they have apart: a line's end is also that of a token."""
        return self.counter.cached and prompt.endswith("\n") and not completion[:1].isspace()

    def alone(self, completion: str, answer: str, body: int) -> int:
        """Tokens of the answer rendered without what it answers, as published. body: those of the completion."""
        whole = self.template.render([{"role": "assistant", "content": answer}])
        head = whole.removesuffix(completion)
        if head == whole or not self.parts_add_up(head, completion):
            return self.counter.rendered(whole) + self.counter.around
        if head not in self.heads:
            self.heads[head] = self.counter.rendered(head)
        return self.heads[head] + body + self.counter.around


# --- language ----------------------------------------------------------------------------------------------------


MAGIC = (793712314).to_bytes(4, "little")  # fastText v0.9.2 src/fasttext.cc


def is_whole(path: Path) -> bool:
    """Whether a file is at least as long as a fastText model of its header is.

    The library checks that nowhere: in a file that breaks off it reads words for ever, or has weights of nothing.
    Layout: fastText v0.9.2 src/{fasttext,args,dictionary,densematrix,quantmatrix,productquantizer}.cc.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = 0

        def take(form: str) -> tuple[Any, ...]:
            nonlocal at
            at += struct.calcsize(f"<{form}")
            return struct.unpack_from(f"<{form}", data, at - struct.calcsize(f"<{form}"))

        def quantizer() -> None:
            nonlocal at
            (columns, *_) = take("4i")
            at += 256 * 4 * columns  # centroids: float32 [columns, 256]

        def matrix(quantized: bool) -> None:
            nonlocal at
            if not quantized:
                rows, columns = take("qq")
                at += 4 * rows * columns
                return
            normed, rows, _, codes = take("?qqi")
            at += codes
            quantizer()
            if normed:
                at += rows
                quantizer()

        try:
            take("2i12id")  # magic, version, arguments
            words, _, _, _, pruned = take("3iqq")
            for _ in range(words):
                end = data.find(b"\0", at)
                if end < 0:
                    return False
                at = end + 1 + 8 + 1  # the word, how often it was, whether it is a label
            at += 8 * max(0, pruned)
            (quantized,) = take("?")
            matrix(quantized)
            (output,) = take("?")
            matrix(quantized and output)
        except struct.error:
            return False
        return at <= len(data)


class Language:
    """A fastText model that names the language of a text: English is what it puts first, whatever the probability.

    model_filters.py:74-96. Raises Failure when the file is not there or not fastText's.
    """

    def __init__(self, path: Path):
        import fasttext

        fasttext.FastText.eprint = lambda *_, **__: None  # load_model prints a warning of an interface it once had
        if not path.is_file():
            raise Failure(f"{path} is not there; set LANG_MODEL to a fastText language model, such as lid.176.ftz")
        with open(path, "rb") as file:
            if file.read(4) != MAGIC:
                raise Failure(f"{path} is not a fastText model; set LANG_MODEL to one, such as lid.176.ftz")
        if not is_whole(path):
            raise Failure(f"{path} is not a whole fastText model; fetch it again")
        try:
            self.model = fasttext.load_model(str(path))
        except (ValueError, MemoryError, RuntimeError) as error:
            raise Failure(f"{path}: fastText cannot load it ({str(error)[-80:]}); fetch it again") from None
        if "__label__en" not in self.model.get_labels():
            raise Failure(f"{path} knows no label __label__en; set LANG_MODEL to a language model")

    def english(self, texts: list[str]) -> list[bool]:
        """For each text whether it is English; line breaks are blanks. Raises ValueError for what is no text."""
        labels, _ = self.model.predict([t.replace("\n", " ").strip() for t in texts])
        return [bool(found) and found[0] == "__label__en" for found in labels]


# --- what was seen -----------------------------------------------------------------------------------------------


def words_of(content: str) -> list[str]:
    """Its words and numbers in lower case, without everything between them."""
    return WORD.findall(content.casefold())


def grams(words: list[str]) -> Iterable[str]:
    return (" ".join(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1))


class Seen:
    """The questions of evaluation sets. A message was seen that equals one of them, or has 13 words in a row of one.

    Both are compared by their words in lower case. A question of fewer words is found only when it is all of the
    message: "What is force?" is in many.
    """

    def __init__(self, files: Sequence[Path]):
        self.whole: set[str] = set()
        self.grams: set[str] = set()
        for path in files:
            for number, row in enumerate(read_jsonl(path), 1):
                question = row.get("Question", row.get("problem"))
                if not isinstance(question, str):
                    raise Failure(f"{path}:{number}: neither Question nor problem is text; mend or remove it")
                words = words_of(question)
                self.whole.add(" ".join(words))
                self.grams.update(grams(words))

    def has(self, messages: list[Message]) -> bool:
        """Whether one of the user's messages was seen."""
        for message in messages:
            if message["role"] == "user":
                words = words_of(message["content"])
                if " ".join(words) in self.whole or any(gram in self.grams for gram in grams(words)):
                    return True
        return False


# --- a batch of rows ---------------------------------------------------------------------------------------------


@dataclass
class Kept:
    """A row that stays, and what the order of rows is made of."""

    number: int
    messages: list[Message]  # with the answer
    prompt: str
    completion: str
    total: int
    completion_tokens: int


@dataclass
class Filters:
    """All filters but the last, for batches of rows; each of them sees only what those before it left."""

    rules: Rules
    template: Template
    tokens: Tokens
    language: Language
    seen: Seen | None

    def __call__(
        self, rows: Sequence[tuple[int, Row]], dropped: Callable[[Row, str], None]
    ) -> Iterable[tuple[Row, Kept]]:
        """The rows that stay, in order. Raises BadRow naming the number of a row that cannot be rendered."""
        left: list[tuple[int, Row, str, str]] = []
        for number, row in rows:
            if why := by_text(self.rules, row):
                dropped(row, why)
                continue
            try:
                left.append((number, row, *self.template.split(row.messages, row.output)))
                (left[-1][2] + left[-1][3]).encode()  # half a surrogate pair is no text
            except ValueError as error:
                raise BadRow(number, str(error)) from None
        if not left:
            return
        english = self.language.english([prompt + completion for _, _, prompt, completion in left])
        for (number, row, prompt, completion), good in zip(left, english, strict=True):
            if not good:
                dropped(row, "english")
                continue
            try:
                why, total, tokens = self.tokens.limits(self.rules, prompt, completion, row.output)
            except ValueError as error:
                raise BadRow(number, str(error)) from None
            if not why and self.seen and self.seen.has(row.messages):
                why = "decontamination"
            if why:
                dropped(row, why)
                continue
            messages = [*row.messages, {"role": "assistant", "content": row.output}]
            yield row, Kept(number, messages, prompt, completion, total, tokens)


class BadRow(ValueError):
    """A row that is no good, by its number as `batches` counts."""

    def __init__(self, number: int, why: str):
        super().__init__(why)
        self.number = number


def load_filters(rules: Rules, tokenizer: Path, language: Path, evaluation: Sequence[Path]) -> Filters:
    """Raises Failure for a tokenizer without a template, a model that is not fastText's, an unreadable set."""
    from tokens import TokenCounter

    template = Template(tokenizer)
    tokens = Tokens(TokenCounter(tokenizer), template, rules.published)
    return Filters(rules, template, tokens, Language(language), Seen(evaluation) if evaluation else None)


def identities(filters: Filters, tokenizer: Path, language: Path, evaluation: Sequence[Path]) -> dict[str, str]:
    """sha256 of what the filters were made of, by name."""
    return {
        "tokenizer.json": sha256(tokenizer / "tokenizer.json"),
        "chat_template": filters.template.sha256,
        "language_model": sha256(language),
    } | {f"evaluation {path.parent.name}": sha256(path) for path in evaluation}
