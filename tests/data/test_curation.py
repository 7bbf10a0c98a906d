"""The curation: what each filter drops, the order of what stays, and what happens to broken input and interruptions."""

import http.server
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_tokens import ATOMS, BLANK

from conftest import ROOT, Repo, failed, heed_ctrl_c, ok
from sft.data.nemotron import fetch, rules, select
from sft.data.nemotron.order import Output, write_output
from sft.data.nemotron.shards import INDEX, Curated
from sft.data.nemotron.template import Rules, Template, Tokens
from sft.lib.errors import Failure
from sft.lib.files import pinned, sha256
from sft.recipe.read import load
from sft.rows.tokens import TokenCounter

sys.path.insert(0, str(ROOT / "tests" / "bench"))

from curation_rows import BOS, EOT, TEMPLATE, make_language_model, make_tokenizer, row

MODES = ("on", "off")
SENTENCES = (
    "The number of people in the water is more than what they said it was.",
    "It was only a long time ago that we made the first one and used it.",
    "So the answer to your question is that you can use all of the other numbers.",
)
GERMAN = "Die Antwort auf die Frage ist, dass man das nicht mit einer Zahl sagen kann und soll."


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A tokenizer of Llama 3's kind with its template, and a language model."""
    folder = tmp_path_factory.mktemp("kit")
    texts = [*SENTENCES, GERMAN, "<think>\n\n</think> 0123456789 \\boxed{12}", *map(str, range(500))]
    return SimpleNamespace(
        folder=folder,
        tokenizer=make_tokenizer(folder / "tokenizer", texts, 500),
        language=(language := make_language_model(folder / "lid.bin", 800)),
        digest=sha256(language),
    )


@pytest.fixture(scope="module")
def hugging(kit: SimpleNamespace) -> Any:
    """The same tokenizer as transformers has it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(kit.tokenizer)


def write_recipe(repo: Repo, variant: str = "corrected", **changes: object) -> str:
    """Recipe `cur`: reasoning-lora's keys, without hold-out, sample and copies unless they are asked for."""
    keys = load("reasoning-lora", "1" if variant == "corrected" else "published")["text"] | {"ROUNDS": "1"}
    keys |= {"CURATE_VAL_ROWS": "0", "CURATE_ROWS": "0", "CURATE_DEDUPLICATE": "false"}
    keys |= {name: str(value) for name, value in changes.items()}
    folder = repo.root / "recipes/cur"
    folder.mkdir(exist_ok=True)
    (folder / "cur.env").write_text("".join(f"{name}={value}\n" for name, value in keys.items()))
    for layer in ("common", "round1"):
        (folder / f"{layer}.env").write_text("")
    return "cur"


def write_source(folder: Path, rows: list[dict], name: str = "chat") -> Path:
    """JSONL as the hub has it."""
    path = folder / "SFT" / name / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return folder


def curate_it(repo: Repo, kit: SimpleNamespace, source: Path, *more: object) -> subprocess.CompletedProcess[str]:
    options = ("--source", source, "--tokenizer", kit.tokenizer, "--workers", 2)
    language = ("--lang-model", kit.language, "--lang-model-sha256", kit.digest)
    return repo.stage("data", "cur", *options, *language, *more)


def result(repo: Repo) -> Path:
    return repo.work / "data" / "llama-nemotron-post-training-dataset" / "round1"


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def good(mode: str, n: int, words: str = "", **changes: Any) -> dict:
    """A row that stays; the nth of its kind differs from the others."""
    text = f"{SENTENCES[n % 3]} {words}{n}."
    return row(
        f"How many of them are there in number {n}?",
        f"<think>\n{text}\n</think>\n\nSo it is." if mode == "on" else text,
        mode,
        **changes,
    )


def small_blocks(repo: Repo, size: int = 20_000) -> None:
    repo.edit("python/sft/rows/spool.py", "SMALLEST_BLOCK = 8 << 20", f"SMALLEST_BLOCK = {size}")


# --- the filters -------------------------------------------------------------------------------------------------


def hand_made() -> list[tuple[str, dict]]:
    """(the filter that drops it, row): of each filter at least two rows of either mode, in numbers that all differ."""
    made: list[tuple[str, dict]] = []
    serial = iter(range(10, 10_000))

    def add(why: str, mode: str, count: int, change: Any) -> None:
        for n in range(count):
            r = good(mode, next(serial))
            change(r, n)
            made.append((why, r))

    def set_(name: str, *values: Any) -> Any:
        return lambda r, n: r.update({name: values[n % len(values)]})

    def output(edit: Any) -> Any:
        return lambda r, n: r.update(output=edit(r["output"], n))

    def ask(text: str) -> Any:
        return lambda r, n: r["input"][0].update(content=f"{r['input'][0]['content']} {text}")

    same = {mode: good(mode, 1) for mode in MODES}
    for mode in MODES:
        on = mode == "on"
        extra = 0 if on else 1
        add("", mode, 5, set_("used_in_training", "Nano", ["Ultra", "Nano"], "super,NANO", ["Nano v1"], "nano"))
        add("used_in_training", mode, 4 + extra, set_("used_in_training", "Super", ["Ultra"], [], "nanometre", None))
        empty = ("<think>\n\n</think>", "<think>\n</think>", "<think></think>")
        add("empty_think", mode, 3 + extra, output(lambda text, n, empty=empty: empty[n % 3] + text))
        add("boxed", mode, 2 + extra, ask("Put it in \\boxed{}."))
        add("", mode, 2, lambda r, n: (ask("In \\boxed{}.")(r, n), output(lambda t, _: t + " \\boxed{3}")(r, n)))
        if on:
            add("unclosed_think", mode, 2, output(lambda text, _: text.replace("</think>", "")))
            add(
                "think_tags",
                mode,
                5,
                output(lambda text, n: text.replace("<think>", "").replace("</think>", "" if n % 2 else "</think>")),
            )
        else:
            add("unclosed_think", mode, 3, output(lambda text, _: f"<think>{text}"))
            add(
                "think_tags",
                mode,
                2,
                output(lambda text, n: f"{text}</think>" if n else f"<think>{text}</think>{text}"),
            )
        foreign = f"<think>{GERMAN}</think>{GERMAN}" if on else GERMAN
        add(
            "english",
            mode,
            2 + extra,
            lambda r, n, foreign=foreign: r.update(
                input=[{"role": "user", "content": f"{GERMAN} {GERMAN} {GERMAN} {n}"}],
                output=f"{foreign} {GERMAN * 3} {n}",
                system_prompt=GERMAN * 2,
            ),
        )
        add("total_tokens", mode, 2 + extra, ask(" ".join(SENTENCES * 5)))
        add("completion_tokens", mode, 3 - extra, output(lambda text, _: text + " ".join(SENTENCES * 2)))
        add(
            "decontamination",
            mode,
            2 + extra,
            lambda r, n: r.update(
                input=[
                    {
                        "role": "user",
                        "content": (
                            "WHAT is a number?",
                            "Well: the people who used it, after all these long years, made two more of them. Why?",
                        )[n % 2],
                    },
                ]
            ),
        )
        add("", mode, 1, ask("What is a number?"))
        made.append(("", same[mode]))
        made.extend(("duplicate", dict(same[mode], generator=f"other {n}")) for n in range(2 + extra))
    random.Random(7).shuffle(made)
    first = {mode: next(i for i, (_, r) in enumerate(made) if r["output"] == same[mode]["output"]) for mode in MODES}
    for mode, at in first.items():  # of copies the first stays
        kept = next(i for i, (why, r) in enumerate(made) if not why and r["output"] == same[mode]["output"])
        made[at], made[kept] = ("", made[at][1]), (made[kept][0] if at == kept else "duplicate", made[kept][1])
    return made


def test_each_filter_drops_just_its_rows(repo: Repo, kit: SimpleNamespace, tmp_path: Path) -> None:
    made = hand_made()
    exam = repo.work / "data" / "exam"
    exam.mkdir(parents=True)
    questions = [
        {"Question": "What is a number?"},
        {"problem": "The people who used it after all these long years made two more of them. How many are there?"},
    ]
    (exam / "test.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    write_recipe(
        repo,
        CURATE_MAX_TOKENS=450,
        CURATE_MAX_COMPLETION=150,
        CURATE_DEDUPLICATE="true",
        CURATE_DECONTAMINATE="exam",
        CURATE_FILES="chat",
    )
    out = ok(curate_it(repo, kit, write_source(tmp_path / "source", [r for _, r in made])))
    done = repo.done(result(repo))
    for mode in MODES:
        wanted = Counter(why for why, r in made if r["reasoning"] == mode)
        assert all(wanted[name] >= 2 for name in rules.FILTERS), wanted
        assert done["dropped"][mode] == {name: wanted[name] for name in rules.FILTERS}
        assert done["read"][mode] == sum(wanted.values()) and done["rows"][mode] == wanted[""]
        assert f"{wanted['boxed']:,} by boxed" in out
    stays = sorted(json.dumps(m) for m in (messages(r) for why, r in made if not why))
    found = rows_of(result(repo) / "messages.jsonl")
    assert sorted(json.dumps(r["messages"]) for r in found) == stays
    assert done["files"]["SFT/chat/chat.jsonl"]["on"]["read"] == done["read"]["on"]
    assert done["inputs"].keys() >= {"tokenizer.json", "chat_template", "language_model", "evaluation exam"}


def messages(r: dict) -> list[dict]:
    return [
        {"role": "system", "content": r["system_prompt"]},
        *r["input"],
        {"role": "assistant", "content": r["output"]},
    ]


@pytest.mark.parametrize("variant", ["corrected", "published"])
def test_rows_are_rendered_counted_sorted_and_interleaved(
    repo: Repo, kit: SimpleNamespace, hugging: Any, tmp_path: Path, variant: str
) -> None:
    """Against transformers and a plain sort, byte for byte; many shards, and many rows of one length."""
    pick = random.Random(3)
    rows = [good("on", n, "and so on " * pick.randrange(20)) for n in range(150)] + [good("off", n) for n in range(60)]
    rows += [row(f"Is {n} it?", "It is the one.", "off") for n in range(100, 150)]
    rows[0]["input"] += [
        {"role": "assistant", "content": " One. "},
        {"role": "user", "content": "And\nthen? \U0001f642"},
    ]
    pick.shuffle(rows)
    source = write_source(write_source(tmp_path / "source", rows[:80]), rows[80:], "other")
    small_blocks(repo, 6_000)
    write_recipe(repo, variant, CURATE_CHUNK=3, CURATE_FILES="other,chat")
    ok(curate_it(repo, kit, source))

    lists: dict[str, list] = {mode: [] for mode in MODES}
    for r in rows[80:] + rows[:80]:
        turns = messages(r)
        prompt = hugging.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
        whole = hugging.apply_chat_template(turns, tokenize=False)
        assert whole.startswith(prompt)
        if variant == "published":
            count = len(hugging(hugging.apply_chat_template(turns[-1:], tokenize=False)).input_ids)
            total = len(hugging(whole).input_ids)
        else:
            count = len(hugging(whole[len(prompt) :], add_special_tokens=False).input_ids)
            total = len(hugging(prompt, add_special_tokens=False).input_ids) + count
        made = {"input": prompt, "output": whole[len(prompt) :], "completion_token_count": count}
        lists[r["reasoning"]].append((count, made, {"messages": turns}, total))
    on, off = (sorted(lists[mode], key=lambda entry: entry[0]) for mode in MODES)
    wanted = []
    while on or off:
        wanted += on[:3] + off[:3]
        on, off = on[3:], off[3:]
    assert rows_of(result(repo) / "training.jsonl") == [entry[1] for entry in wanted]
    assert rows_of(result(repo) / "messages.jsonl") == [entry[2] for entry in wanted]
    done = repo.done(result(repo))
    totals = [entry[3] for entry in wanted]
    counts = [entry[0] for entry in wanted]
    assert done["tokens"] == {"total": sum(totals), "completion": sum(counts), "longest": max(totals)}
    edges = [len(wanted) * n // 10 for n in range(11)]
    shares = [sum("thinking on" in e[1]["input"] for e in wanted[a:b]) for a, b in itertools.pairwise(edges)]
    assert [part["on"] for part in done["along"]] == shares and sum(p["rows"] for p in done["along"]) == len(wanted)
    assert not (result(repo) / "validation.jsonl").exists() and wanted[0][1]["input"].startswith(BOS)


def test_limits_are_kept_to_the_token(kit: SimpleNamespace) -> None:
    r = good("on", 4)
    template, counter = Template(kit.tokenizer), TokenCounter(kit.tokenizer)
    prompt, answer = template.split(messages(r)[:-1], r["output"])
    assert counter.cached and counter.around == 1 and answer.endswith(EOT)
    for published in (False, True):
        tokens = Tokens(counter, template, published)

        def limits(most: int, longest: int, tokens: Tokens = tokens, published: bool = published) -> tuple:
            return tokens.limits(Rules("nano", most, longest, published), prompt, answer, r["output"])

        _, total, body = limits(10**6, 10**6)
        assert limits(total, body) == (None, total, body)
        assert limits(total - 1, body)[0] == "total_tokens" and limits(total, body - 1)[0] == "completion_tokens"
        assert limits(10, 10)[0] == "total_tokens"  # of both the one that comes first


def test_the_published_filters_differ_where_the_table_says() -> None:
    def why(published: bool, **changes: Any) -> str | None:
        r = good("on", 1) | changes
        return rules.by_text(Rules("nano", 1, 1, published), rules.read_row(*(r[name] for name in rules.FIELDS)))

    assert (
        why(False, used_in_training="nanometre") == "used_in_training"
        and why(True, used_in_training="nanometre") is None
    )
    assert why(False, used_in_training=["Nano"]) is why(True, used_in_training=["Nano"]) is None
    boxed = [{"role": "user", "content": "In \\boxed{}."}]
    assert why(False, input=boxed) == "boxed" and why(True, input=boxed) is None


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("reasoning", ..., "'reasoning' is not there"),
        ("reasoning", "On", "neither 'on' nor 'off'"),
        ("reasoning", None, "is null"),
        ("output", ..., "'output' is not there"),
        ("output", 3, "'output' is int"),
        ("system_prompt", None, "'system_prompt' is null"),
        ("used_in_training", ..., "'used_in_training' is not there"),
        ("used_in_training", {"a": 1}, "is dict"),
        ("input", "text", "no list of messages"),
        ("input", [], "no list of messages"),
        ("input", [{"role": "user"}], "input.content"),
        ("input", ["text"], "something else than messages"),
    ],
)
def test_a_row_of_another_form_is_refused(field: str, value: Any, word: str) -> None:
    r = good("on", 1) | {field: value}
    with pytest.raises(ValueError, match=word.replace(".", r"\.")):
        rules.read_row(*(r[name] for name in rules.FIELDS))


def test_what_was_seen_is_found_by_thirteen_words(tmp_path: Path) -> None:
    words = [f"w{n}" for n in range(20)]
    (tmp_path / "test.jsonl").write_text(json.dumps({"Question": " ".join(words)}) + '\n{"problem": "Why, so?"}\n')
    seen = rules.Seen([tmp_path / "test.jsonl"])

    def has(text: str, role: str = "user") -> bool:
        return seen.has([{"role": "user", "content": "other"}, {"role": role, "content": text}])

    assert has("x " + ", ".join(words[3:16]).upper() + " y") and not has("x " + " ".join(words[3:15]) + " y")
    assert has("why so") and not has("why so then") and not has("why so", "assistant")
    (tmp_path / "test.jsonl").write_text('{"question": "x"}\n')
    with pytest.raises(Failure, match=r"test\.jsonl:1: neither Question nor problem"):
        rules.Seen([tmp_path / "test.jsonl"])


# --- rendering and counting --------------------------------------------------------------------------------------


def test_any_conversation_is_rendered_as_transformers_does(kit: SimpleNamespace, hugging: Any, tmp_path: Path) -> None:
    conversations = [
        [{"role": "user", "content": " a\n\n"}],
        [{"role": "system", "content": ""}, {"role": "user", "content": "{{ x }} {% raw %} <|eot_id|> é"}],
        [{"role": role, "content": f"{role}\n"} for role in ("system", "user", "assistant", "user", "tool")],
    ]
    variants = {
        "plain": TEMPLATE,
        "generation": "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content }}{% endgeneration %}{% else %}{{ m | tojson }}{% endif %}"
        "{% if loop.index > 3 %}{% break %}{% endif %}\n"
        "{% endfor %}{{ eos_token }}{% if tools is not none or documents is not none %}?{% endif %}",
    }
    for name, text in variants.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "chat_template.jinja").write_text(text)
        config = json.loads((kit.tokenizer / "tokenizer_config.json").read_text()) | {"chat_template": "not this"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        mine = Template(folder)
        for turns in conversations:
            for prompt in (False, True):
                theirs = hugging.apply_chat_template(
                    turns, chat_template=text, tokenize=False, add_generation_prompt=prompt
                )
                assert mine.render(turns, prompt) == theirs


def test_rows_do_not_depend_on_the_day(tmp_path: Path) -> None:
    text = "{% set day = strftime_now('%d %b %Y') if strftime_now is defined else '?' %}{{ day }} {{ date_string }}"
    (tmp_path / "chat_template.jinja").write_text(text)
    assert Template(tmp_path).render([]) == "26 Jul 2024 26 Jul 2024"


def test_a_template_that_rewrites_its_prompt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ messages | length }}")
    with pytest.raises(ValueError, match="renders its prompt differently"):
        Template(tmp_path).split([{"role": "user", "content": "x"}], "y")
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no tools') }}")
    with pytest.raises(ValueError, match="refuses it"):
        Template(tmp_path).render([])
    (tmp_path / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(Failure, match="cannot be read"):
        Template(tmp_path)


def test_counts_with_llama_3s_tokenizer_equal_the_library(kit: SimpleNamespace) -> None:
    counter, draw = TokenCounter(kit.tokenizer), random.Random(5)
    assert counter.cached and counter.apart
    atoms = [*ATOMS, "1234567", "٣٤", "007 ", EOT, BOS, "<|start_header_id|>", "<|", "|>"]
    for _ in range(4000):
        text = "".join(draw.choices(BLANK if draw.random() < 0.3 else atoms, k=draw.randrange(25)))
        wanted = len(counter.tokenizer.encode(text, add_special_tokens=False).ids)
        assert counter.count(text) == counter.rendered(text) == wanted, repr(text)
        assert counter.rendered(text, wanted) == wanted and (not wanted or counter.rendered(text, wanted - 1) is None)


# --- which rows, and in what order ---------------------------------------------------------------------------------


def test_the_place_of_a_row_is_that_of_taking_turns() -> None:
    for on, off, chunk in ((5, 3, 1), (3, 5, 2), (0, 4, 1), (7, 0, 3), (4, 4, 3), (10, 2, 4), (2, 9, 5)):
        left = [[("on", n) for n in range(on)], [("off", n) for n in range(off)]]
        order = []
        while any(left):
            for mine in left:
                order += mine[:chunk]
                del mine[:chunk]
        for place, (mode, n) in enumerate(order):
            assert select.position(mode, n, off if mode == "on" else on, chunk) == place
        for place in range(len(order) + 1):
            assert select.on_before(place, on, off, chunk) == sum(mode == "on" for mode, _ in order[:place])


def test_an_output_takes_the_rows_of_its_state_by_length_and_in_turns(tmp_path: Path) -> None:
    """Two shards; of rows of one length, the one of the earlier shard comes first."""
    shards = {  # (mode, length, state) of each row, those with reasoning on first, each half sorted
        "a": [("on", 2, 1), ("on", 5, 2), ("on", 9, 1), ("off", 1, 1), ("off", 4, 0)],
        "b": [("on", 2, 1), ("on", 3, 1), ("off", 1, 1), ("off", 1, 2), ("off", 8, 1), ("off", 9, 1)],
    }
    made, states = [], b""
    for name, entries in shards.items():
        lines = [f"{name}{n}{'.' * n}\n".encode() for n in range(len(entries))]
        (tmp_path / f"{name}.training").write_bytes(b"".join(lines))
        index = [(0, length, 0, len(line), 0) for (_, length, _), line in zip(entries, lines, strict=True)]
        np.array(index, INDEX).tofile(tmp_path / f"{name}.index")
        count = Counter(mode for mode, _, _ in entries)
        made.append(Curated(name, {}, {}, {}, dict(count), 0, {}, {}))
        states += bytes(state for _, _, state in entries)
    (tmp_path / "state").write_bytes(states)

    def rows(state: int, chunk: int) -> list[str]:
        written = write_output(Output(tmp_path / "out", "training", state, chunk, made, tmp_path))
        found = (tmp_path / "out").read_text().replace(".", "").split()
        assert written.rows == len(found)
        return found

    assert rows(1, 1) == ["a0", "a3", "b0", "b2", "b1", "b4", "a2", "b5"]
    assert rows(1, 3) == ["a0", "b0", "b1", "a3", "b2", "b4", "a2", "b5"]
    assert rows(2, 1) == ["a1", "b3"] and rows(7, 1) == []


def test_draws_take_the_lowest_and_copies_are_found() -> None:
    values = np.array([5, 1, 5, 2, 5, 0], np.uint64)
    among = np.array([1, 1, 1, 1, 1, 0], bool)
    assert select.lowest(values, among, 3).tolist() == [True, True, False, True, False, False]
    assert select.lowest(values, among, 0).sum() == 0 and select.lowest(values, among, 9).tolist() == among.tolist()
    assert select.copies(values).tolist() == [False, False, True, False, True, False]
    many = np.random.default_rng(1).integers(0, 2**64, 5000, np.uint64)
    many[4000:] = many[:1000]
    assert np.flatnonzero(select.copies(many)).tolist() == list(range(4000, 5000))
    assert select.shares([3, 3, 1], 5) == [2, 2, 1] and sum(select.shares([7, 11, 13], 10)) == 10


@pytest.fixture
def plenty(tmp_path: Path) -> Path:
    """600 rows with reasoning on, 200 off, of many lengths; copies of 40 of them."""
    pick = random.Random(5)
    rows = [
        good(mode, n, "and so on " * pick.randrange(30)) for mode, k in (("on", 600), ("off", 200)) for n in range(k)
    ]
    pick.shuffle(rows)
    return write_source(tmp_path / "plenty", rows + rows[:40])


@pytest.mark.slow
def test_rows_are_held_out_and_drawn_in_their_shares(repo: Repo, kit: SimpleNamespace, plenty: Path) -> None:
    made = {}
    for seed in (1, 1, 2):
        write_recipe(
            repo, CURATE_FILES="chat", CURATE_VAL_ROWS=80, CURATE_ROWS=400, CURATE_DEDUPLICATE="true", SEED=seed
        )
        subprocess.run(["rm", "-rf", result(repo)], check=True)
        ok(curate_it(repo, kit, plenty))
        done = repo.done(result(repo))
        assert done["rows"] == {"on": 300, "off": 100, "all": 400} and done["validation"] == {"on": 60, "off": 20}
        assert done["left_out"] == {"on": 240, "off": 80}
        assert sum(done["dropped"][mode]["duplicate"] for mode in MODES) == 40
        held, kept = (rows_of(result(repo) / f"{name}.jsonl") for name in ("validation", "training"))
        texts = [r["input"] + r["output"] for r in held + kept]
        assert len(set(texts)) == len(texts) == 480
        lengths = sorted(r["completion_token_count"] for r in held if "thinking on" in r["input"])
        everything = sorted(r["completion_token_count"] for r in held + kept if "thinking on" in r["input"])
        for share in (0.25, 0.5, 0.75):  # of ten classes of length each has its share
            value = lengths[int(share * len(lengths))]
            assert abs(sum(x <= value for x in everything) / len(everything) - share) < 0.12
        longest = max(r["completion_token_count"] for r in kept)
        assert longest > sorted(everything)[-40], "a sample is not of the shortest rows"
        if seed in made:
            assert made[seed] == done["outputs"]
        made[seed] = done["outputs"]
    assert made[1] != made[2]


def test_head_takes_the_first_rows_of_the_whole_file(repo: Repo, kit: SimpleNamespace, plenty: Path) -> None:
    write_recipe(repo, CURATE_FILES="chat")
    ok(curate_it(repo, kit, plenty))
    whole = (result(repo) / "training.jsonl").read_bytes().splitlines()
    assert len(whole) == 840
    subprocess.run(["rm", "-rf", result(repo)], check=True)
    write_recipe(repo, CURATE_FILES="chat", CURATE_ROWS=431, CURATE_TAKE="head")
    ok(curate_it(repo, kit, plenty))
    assert (result(repo) / "training.jsonl").read_bytes().splitlines() == whole[:431]


@pytest.mark.slow
def test_any_number_of_workers_writes_the_same_and_an_interrupted_run_is_gone_on_with(
    repo: Repo, kit: SimpleNamespace, plenty: Path
) -> None:
    small_blocks(repo)
    write_recipe(repo, CURATE_FILES="chat", CURATE_VAL_ROWS=50)
    digests = []
    for workers in (1, 2):
        ok(curate_it(repo, kit, plenty, "--workers", workers))
        digests.append(repo.done(result(repo))["outputs"])
        subprocess.run(["rm", "-rf", result(repo)], check=True)
    assert digests[0] == digests[1] and digests[0].keys() == {"training.jsonl", "messages.jsonl", "validation.jsonl"}

    command = [sys.executable, "python/data.py", "cur", "1", "--work", str(repo.work), "--source", str(plenty)]
    command += ["--tokenizer", str(kit.tokenizer), "--lang-model", str(kit.language)]
    command += ["--lang-model-sha256", kit.digest, "--workers", "1"]
    shards = result(repo).with_name(".round1.part") / "shards"
    process = subprocess.Popen(
        command,
        cwd=repo.root,
        env=repo.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )
    while len(list(shards.glob("*.json"))) < 2 and process.poll() is None:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "error: interrupted; run the same command again" in output, output
    assert not result(repo).exists()
    torn = sorted(shards.glob("*.training"))[0]
    torn.write_bytes(torn.read_bytes()[:-5])  # as after a crash of the machine
    assert "going on with an interrupted run: " in ok(curate_it(repo, kit, plenty))
    assert repo.done(result(repo))["outputs"] == digests[0]
    assert "already there" in ok(curate_it(repo, kit, plenty))


# --- what cannot be curated ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bad_input_is_one_line_and_nothing_is_half_written(repo: Repo, kit: SimpleNamespace, tmp_path: Path) -> None:
    write_recipe(repo, CURATE_FILES="chat")
    rows = [good("on", n) for n in range(4)]
    missing = [*rows[:2], {k: v for k, v in rows[2].items() if k != "output"}, rows[3]]
    failed(curate_it(repo, kit, write_source(tmp_path / "a", missing)), "chat.jsonl:3: field 'output' is not there")
    source = write_source(tmp_path / "a", [*rows[:1], rows[1] | {"reasoning": "maybe"}])
    failed(curate_it(repo, kit, source), "chat.jsonl:2: reasoning is 'maybe', neither 'on' nor 'off'")
    path = tmp_path / "a/SFT/chat/chat.jsonl"
    path.write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[1] | {"output": "<think>\ud800</think>"}) + "\n")
    failed(curate_it(repo, kit, source), "chat.jsonl:2: ")
    good_source = write_source(tmp_path / "b", rows)
    write_recipe(repo, CURATE_FILES="chat,math")
    failed(curate_it(repo, kit, good_source), "has no math.jsonl and no math/*.jsonl")
    write_recipe(repo, CURATE_FILES="chat", CURATE_USED_IN="super")
    failed(curate_it(repo, kit, good_source), "leave none of 4 rows", "4 go by used_in_training")
    write_recipe(repo, CURATE_FILES="chat", CURATE_VAL_ROWS=4)
    failed(curate_it(repo, kit, good_source), "CURATE_VAL_ROWS=4 of 4 rows leave none")
    write_recipe(repo, CURATE_FILES="chat", CURATE_DECONTAMINATE="exam")
    failed(curate_it(repo, kit, good_source), "exam/test.jsonl is not there")
    left = [p for p in (repo.work / "data").rglob("*") if p.is_file()] if (repo.work / "data").exists() else []
    assert not left


def test_bad_models_are_named(repo: Repo, kit: SimpleNamespace, tmp_path: Path) -> None:
    write_recipe(repo, CURATE_FILES="chat")
    source = write_source(tmp_path / "source", [good("on", 1)])
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "tokenizer.json").write_bytes((kit.tokenizer / "tokenizer.json").read_bytes())
    failed(curate_it(repo, kit, source, "--tokenizer", bare), "has no chat template; set TOKENIZER")
    failed(repo.stage("data", "cur", "--source", source), "has no tokenizer.json; run: make model MODEL=cur ROUND=1")
    failed(curate_it(repo, kit, source, "--lang-model", tmp_path / "no.ftz"), "no.ftz is not there; set LANG_MODEL")
    (tmp_path / "torn.ftz").write_bytes(kit.language.read_bytes()[:2000])
    failed(
        curate_it(repo, kit, source, "--lang-model", tmp_path / "torn.ftz"),
        "torn.ftz is another file, or not whole",
        f"not {kit.digest}; fetch it again, or set LANG_MODEL_SHA256",
    )
    bare_options = ("--source", source, "--tokenizer", kit.tokenizer, "--lang-model", kit.language)
    failed(repo.stage("data", "cur", *bare_options), f"sha256 is {kit.digest}, not {pinned('LANG_MODEL_SHA256')}")
    text = tmp_path / "text.ftz"
    text.write_text("a page that says 404")
    failed(
        curate_it(repo, kit, source, "--lang-model", text, "--lang-model-sha256", sha256(text)),
        "text.ftz: fastText cannot load it",
        "set LANG_MODEL to a language model",
    )
    failed(curate_it(repo, kit, tmp_path / "none"), "is not a folder")
    assert not (repo.work / "data").exists()


@pytest.mark.slow
def test_a_folder_with_other_content_is_left_alone(repo: Repo, kit: SimpleNamespace, tmp_path: Path) -> None:
    write_recipe(repo, CURATE_FILES="chat")
    source = write_source(tmp_path / "source", [good(mode, n) for mode in MODES for n in range(3)])
    result(repo).mkdir(parents=True)
    (result(repo) / "mine").write_text("x")
    failed(curate_it(repo, kit, source), "exists and is not ours to write; move it away")
    assert [p.name for p in result(repo).iterdir()] == ["mine"]
    (result(repo) / "mine").unlink()
    result(repo).rmdir()
    ok(curate_it(repo, kit, source))
    write_source(tmp_path / "source", [good(mode, n) for mode in MODES for n in range(4)])
    failed(curate_it(repo, kit, source), "was made from other inputs", "SFT/chat/chat.jsonl")
    write_recipe(repo, CURATE_FILES="chat", CURATE_CHUNK=2)
    failed(curate_it(repo, kit, source), "CURATE_CHUNK was 1, is now 2")


def test_files_are_chosen_by_their_names(tmp_path: Path) -> None:
    for name in ("chat/SFT/chat/chat.jsonl", "chat/SFT/math/math_v1.jsonl", "chat/SFT/math/math_v1.1.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    source = tmp_path / "chat"  # the tutorial would take all of them, for a name that is in the path
    names = [[p.name for p in fetch.source_files(source, n)] for n in (["chat"], ["math_v1.1", "chat"], ["math"])]
    assert names == [["chat.jsonl"], ["math_v1.1.jsonl", "chat.jsonl"], ["math_v1.1.jsonl", "math_v1.jsonl"]]


def test_the_language_model_is_downloaded_once(kit: SimpleNamespace, tmp_path: Path) -> None:
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = kit.language.read_bytes()
            self.send_response(200 if "missing" not in self.path else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:1000] if "torn" in self.path else body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base, paths = f"http://127.0.0.1:{server.server_port}", SimpleNamespace(work=tmp_path)
    for name, why in (("missing", "Not Found"), ("torn", f"1,000 bytes came, whose sha256 is .*, not {kit.digest}")):
        with pytest.raises(Failure, match=why):
            fetch.language_model(paths, tmp_path, None, f"{base}/{name}", kit.digest)
        assert not list((tmp_path / "models").iterdir())
    for _ in range(2):
        found = fetch.language_model(paths, tmp_path, None, f"{base}/lid.176.ftz", kit.digest)
        assert found == tmp_path / "models/lid.176.ftz" and found.read_bytes() == kit.language.read_bytes()
    assert asked == ["/missing", "/torn", "/lid.176.ftz"]
    server.shutdown()
    found.write_bytes(found.read_bytes()[:-1])
    with pytest.raises(Failure, match=rf"{found} is another file, or not whole: .*; remove it"):
        fetch.language_model(paths, tmp_path, None, f"{base}/lid.176.ftz", kit.digest)
    with pytest.raises(Failure, match=r"cannot be fetched .*set LANG_MODEL"):
        fetch.language_model(
            SimpleNamespace(work=tmp_path / "other"), tmp_path, None, "http://127.0.0.1:9/x", kit.digest
        )


# --- with the rest -------------------------------------------------------------------------------------------------


def test_the_report_counts_what_the_curation_counted(repo: Repo, kit: SimpleNamespace, plenty: Path) -> None:
    write_recipe(repo, CURATE_FILES="chat", CURATE_VAL_ROWS=10)
    ok(curate_it(repo, kit, plenty))
    out = ok(repo.stage("tools/report", "cur", "--tokenizer", kit.tokenizer, "--rows", 0))
    done = repo.done(result(repo))
    report = repo.done(repo.run_dir("cur") / "report")["report"]
    assert report["tokens"]["total"] == done["tokens"]["total"]
    assert report["tokens"]["supervised"] == done["tokens"]["completion"]
    assert report["tokens"]["max"] == done["tokens"]["longest"]
    shares = " ".join(f"{part['on'] / part['rows']:.0%}" for part in done["along"])
    assert f"on          {shares}  of the rows, by tenths of the file" in out and shares.endswith("100%")
    held, read = done["validation"]["on"], done["read"]["on"]
    assert 7 <= held <= 8 and f"{done['rows']['on']:>15,}  of {read:,} read; {held} held out, 0 not taken" in out


def test_make_data_takes_the_stage_of_the_schema(repo: Repo) -> None:
    def shown(model: str, round_: str, **env: str) -> str:
        return ok(repo.call("scripts/data.sh", model, round_, DRY_RUN="1", **env)).splitlines()[0]

    own = {"LANG_MODEL": "/x/lid.ftz", "LANG_MODEL_SHA256": "0" * 64}
    line = shown("reasoning-lora", "1", TOKENIZER="/t", WORKERS="3", SCHEMA="dolly", **own)
    assert "python/data.py reasoning-lora 1 " in line
    assert line.endswith(f"--tokenizer /t --workers 3 --lang-model /x/lid.ftz --lang-model-sha256 {'0' * 64}")
    assert "python/data.py qwen7b 1 " in shown("qwen7b", "1")
    assert "python/data.py llama3-sft 1 " in shown("llama3-sft", "1")
    failed(
        repo.call("scripts/data.sh", "reasoning-lora", "1", DATA_FORM="messages", DRY_RUN=1),
        "DATA_FORM=messages is not for the rows of recipe reasoning-lora; leave it out",
    )
