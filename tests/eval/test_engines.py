"""The driver with a scripted engine: order, seeds, rooms, resuming; conversations; and transformers as an engine."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from little import END_OF_TEXT, END_OF_TURN, conversations, write_model
from sft.eval.engines.base import Completion, Request, Sampling, Vocabulary, ends_of, seed_of
from sft.eval.engines.driver import answer_all, play_all
from sft.eval.engines.opening import open_engine, positions_of
from sft.eval.engines.samples import Samples, seeds_of
from sft.eval.engines.transformer import TransformersEngine
from sft.eval.engines.turns import Turns
from sft.eval.modes.tir import Complete, Prompt, generate
from sft.eval.protocols.read import protocol
from sft.eval.sandbox.session import Result
from sft.lib.errors import Failure, Interrupted

CODE = protocol("published").mode("tir").code
assert CODE
GREEDY = Sampling(0.0, ends=(0,))
PROMPTS = {f"p{n}": tuple(range(1, 4 + n)) for n in range(3)}


class Scripted:
    """Answers with `said(request)`, newest request first, `width` at a time; stops the run after `most` answers."""

    name = "scripted"

    def __init__(self, said: Callable[[Request], Completion] | None = None, width: int = 2, most: int | None = None):
        self.said, self.width, self.most, self.positions = said or echo, width, most, 100
        self.asked: list[Request] = []

    def facts(self) -> dict[str, Any]:
        return {"engine": self.name}

    def run(self, source: Iterator[Request | None], sampling: Sampling) -> Iterator[tuple[Request, Completion] | None]:
        held: list[Request] = []
        more = True
        while more or held:
            while more and len(held) < self.width:
                request = next(source, "end")
                if request == "end":
                    more = False
                elif request is None:
                    break
                else:
                    held.append(request)
            if held:
                if self.most is not None and len(self.asked) >= self.most:
                    raise Interrupted("the engine is gone; run it again")
                self.asked.append(held[-1])
                yield held[-1], self.said(held.pop())
            else:
                yield None

    def close(self) -> None:
        pass


def echo(request: Request) -> Completion:
    return Completion(f"{request.prompt[-1]}/{request.seed}", 5, "stop", "")


def run(target: Path, engine: Scripted, samples: int = 2, seed: int = 7) -> list[dict[str, Any]]:
    seeds = seeds_of([("sums", name) for name in PROMPTS], samples, seed)
    answer_all(lambda: engine, GREEDY, lambda key: PROMPTS[key[1]], target, seeds, 50)
    return [json.loads(line) for line in target.read_text().splitlines()]


# --- seeds and files -----------------------------------------------------------------------------------------------


def test_seeds_are_by_name() -> None:
    """sha256 of [7, "sums", "p0", 1, 0] begins with the bytes that the first seed has, without its last bit."""
    # printf '[7, "sums", "p0", 1, 0]' | sha256sum
    assert seed_of(7, "sums", "p0", 1) == int("67c8e2af", 16) >> 1
    others = {seed_of(8, "sums", "p0", 1), seed_of(7, "sums", "p1", 1), seed_of(7, "sums", "p0", 2)}
    assert len(others | {seed_of(7, "sums", "p0", 1), seed_of(7, "sums", "p0", 1, 1), seed_of(7, "sum", "p0", 1)}) == 6
    assert all(0 <= seed_of(7, "b", str(n), 0) < 2**31 for n in range(1000))


def test_answers_are_asked_for_and_written_sample_by_sample(tmp_path: Path) -> None:
    engine, target = Scripted(), tmp_path / "sums.samples.jsonl"
    rows = run(target, engine)
    order = [(f"p{n}", sample) for sample in (0, 1) for n in range(3)]
    assert [(row["problem"], row["sample"]) for row in rows] == order
    # Two are held at a time, and the newest is answered first.
    assert [request.key[1:] for request in engine.asked] == [order[n] for n in (1, 2, 3, 4, 5, 0)]
    assert {request.max_tokens for request in engine.asked} == {50}
    assert rows[4] == {
        "benchmark": "sums", "problem": "p1", "sample": 1, "seed": seed_of(7, "sums", "p1", 1),
        "text": f"4/{seed_of(7, 'sums', 'p1', 1)}", "tokens": 5, "finish": "stop",
    }  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {target.name, "sums.progress.json"}
    said = json.loads((tmp_path / "sums.progress.json").read_text())
    assert (said["done"], said["total"], said["tokens"]) == (6, 6, 30)
    assert run(target, Scripted(most=0)) == rows, "nothing is asked when all is there"


@pytest.mark.parametrize("most", [0, 1, 4])
def test_an_interrupted_run_goes_on(tmp_path: Path, most: int, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tmp_path / "whole.samples.jsonl"
    run(whole, Scripted())
    target, cut = tmp_path / "sums.samples.jsonl", Scripted(most=most)
    with pytest.raises(Interrupted):
        run(target, cut)
    assert not target.exists()
    part = tmp_path / "sums.samples.jsonl.part"
    assert part.read_text().count("\n") == most
    with open(part, "a") as file:
        file.write('{"benchmark": "sums", "prob')  # a killed writer's last line
    rest = Scripted(width=1)
    run(target, rest)
    assert target.read_bytes() == whole.read_bytes() and not part.exists()
    assert not {request.key for request in cut.asked} & {request.key for request in rest.asked}
    assert len(rest.asked) == 6 - most
    assert (f"going on with an interrupted run, {most} of 6 answers are there" in capsys.readouterr().out) == (most > 0)


def test_a_killed_process_goes_on(tmp_path: Path) -> None:
    """SIGKILL while answers are written: the file of the run after it is equal to that of one that was let alone."""
    script = (
        "import sys, time; from pathlib import Path; import test_engines as t\n"
        "def slow(request):\n    time.sleep(0.05); return t.echo(request)\n"
        "t.run(Path(sys.argv[1]), t.Scripted(slow), samples=20)\n"
    )
    path = os.pathsep.join(str(ROOT / folder) for folder in ("python", "tests", "tests/eval"))
    target = tmp_path / "sums.samples.jsonl"
    part = tmp_path / "sums.samples.jsonl.part"
    process = subprocess.Popen([sys.executable, "-c", script, target], env=os.environ | {"PYTHONPATH": path})
    while process.poll() is None and (not part.is_file() or part.read_text().count("\n") < 4):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    have = part.read_text().count("\n")
    engine = Scripted()
    run(target, engine, samples=20)
    assert len(engine.asked) == 60 - have and 4 <= have < 60
    run(tmp_path / "whole.samples.jsonl", Scripted(), samples=20)
    assert target.read_bytes() == (tmp_path / "whole.samples.jsonl").read_bytes()


def test_rows_of_another_run_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "sums.samples.jsonl"
    with pytest.raises(Interrupted):
        run(target, Scripted(most=2))
    with pytest.raises(Failure, match=r"part: sums/p1/0 is of another run, or another SEED; remove the file"):
        run(target, Scripted(), seed=8)
    run(target, Scripted())
    with pytest.raises(Failure, match=r"3 of 9 answers are not there; remove the file"):
        run(target, Scripted(), samples=3)
    with pytest.raises(Failure, match=r"sums/p0/1 is of another run"):
        run(target, Scripted(), samples=1)
    with pytest.raises(Failure, match="problem p1 of sums is there twice; give each"):
        seeds_of([("sums", "p0"), ("sums", "p1"), ("sums", "p1")], 2, 0)
    (tmp_path / "bad.samples.jsonl.part").write_text('{"benchmark"\n{}\n')
    with pytest.raises(Failure, match=r"bad.samples.jsonl.part:1: malformed JSON line .*; fix or remove it"):
        Samples(tmp_path / "bad.samples.jsonl", seeds_of([("sums", "p0")], 1, 0))


def test_no_more_is_asked_than_the_model_has_positions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prompts of 3, 4 and 5 tokens in 5 positions: 2, 1 and no token are left."""
    engine = Scripted()
    engine.positions = 5
    rows = run(tmp_path / "sums.samples.jsonl", engine, samples=1)
    assert {request.key[1]: request.max_tokens for request in engine.asked} == {"p0": 2, "p1": 1}
    assert (rows[2]["text"], rows[2]["tokens"], rows[2]["finish"]) == ("", 0, "length")
    said = capsys.readouterr().out
    assert (
        "2 problems were answered with fewer than 50 tokens, the least 1: the model has 5 positions" in said
        and "1 problems leave no room for an answer in 5 positions; they count as cut" in said
    )


def test_positions_are_the_model_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"max_position_embeddings": 4096}')
    assert (positions_of(config, None), positions_of(config, 1024)) == (4096, 1024)
    assert capsys.readouterr().out == ""
    assert positions_of(config, 40960) == 4096
    assert (
        "the model has 4,096 positions, so prompt and answer have 4,096 tokens, not 40,960" in capsys.readouterr().out
    )
    config.write_text("{}")
    assert positions_of(config, 9) == 9
    with pytest.raises(Failure, match="names no max_position_embeddings; set a length"):
        positions_of(config, None)
    with pytest.raises(Failure, match="there is no engine trtllm; it is transformers, vllm, server"):
        open_engine("trtllm", tmp_path, config, None, max_model_len=9)
    with pytest.raises(Failure, match=r"this Python has no vLLM .*; build the one for a CPU by scripts/vllm-cpu.sh"):
        open_engine("vllm", tmp_path, config, None, max_model_len=9)


# --- conversations -------------------------------------------------------------------------------------------------


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


class Echo:
    """A sandbox that prints the code it is given, after a while."""

    def run(self, code: str) -> Result:
        time.sleep(0.02)
        return Result(code.upper(), "", "ok", 0.0)


def talk(request: Request) -> Completion:
    """Calls code twice, then answers; what it says is by the seed."""
    prompt = "".join(map(chr, request.prompt))
    if prompt.count("```output") == 2:
        return Completion(f"It is {request.seed}.", 4, "stop", "", letters(f"It is {request.seed}."))
    text = f"<tool_call>\nx{request.seed}\n"
    return Completion(text, 6, "stop", "</tool_call>", letters(text))


def say(name: str, sample: int) -> str:
    first, second, third = (seed_of(7, "sums", name, sample, turn) for turn in range(3))
    left = (
        "```system\nRemaining code executions: {}. You will not be able to call code when you run out of executions, "
    )
    left += "so use it wisely. Note that you can still continue solving the problem without code after that.\n```\n"
    return (
        f"<tool_call>\nx{first}\n</tool_call>\n```output\nX{first}\n```\n{left.format(7)}"
        f"<tool_call>\nx{second}\n</tool_call>\n```output\nX{second}\n```\n{left.format(6)}It is {third}."
    )


def play(key: tuple[str, str, int], complete: Complete) -> dict[str, Any]:
    made = generate(complete, Echo(), f"<{key[1]}>", 1000, CODE, letters)
    return {"text": made["generation"], "tokens": made["tokens"], "calls": made["calls"]}


@pytest.mark.parametrize("width, threads", [(1, 1), (2, None), (8, 3), (3, 20)])
def test_code_calls_on_an_engine_end_in_the_exact_transcript(tmp_path: Path, width: int, threads: int | None) -> None:
    engine, target = Scripted(talk, width), tmp_path / "sums.samples.jsonl"
    engine.positions = 10_000
    problems = [("sums", "a"), ("sums", "b")]

    def all_of_it(engine: Scripted) -> list[dict[str, Any]]:
        play_all(lambda: engine, GREEDY, play, target, seeds_of(problems, 4, 7), 7, letters, threads)
        return [json.loads(line) for line in target.read_text().splitlines()]

    rows = all_of_it(engine)
    assert [(row["problem"], row["sample"]) for row in rows] == [(name, n) for n in range(4) for name in "ab"]
    for row in rows:
        assert row["text"] == say(row["problem"], row["sample"]) and (row["tokens"], row["calls"]) == (16, 2)
    assert len(engine.asked) == 24 and len({request.key for request in engine.asked}) == 24
    assert {(request.key[3], request.max_tokens) for request in engine.asked} == {(0, 1000), (1, 994), (2, 988)}
    assert {request.stop for request in engine.asked} == {("</tool_call>",)}
    # Interrupted and resumed it is the same.
    before = target.read_bytes()
    target.unlink()
    cut = Scripted(talk, width, most=9)
    cut.positions = 10_000
    with pytest.raises(Interrupted, match="the engine is gone"):
        all_of_it(cut)
    all_of_it(engine)
    assert target.read_bytes() == before


def test_what_goes_wrong_in_a_conversation_ends_the_run() -> None:
    began = threading.active_count()

    def broken(key: tuple[str, str, int], complete: Complete) -> str:
        complete("abc", (), 5)
        if key[2] == 3:
            raise Failure("no sandbox; install one")
        return "done"

    turns = Turns(Scripted(), GREEDY, broken, 7, letters, 3)
    with pytest.raises(Failure, match="no sandbox; install one"):
        list(turns.run([("sums", "a", n) for n in range(50)]))
    limit = time.monotonic() + 10
    while threading.active_count() > began and time.monotonic() < limit:
        time.sleep(0.01)
    assert threading.active_count() == began, "no thread is left"


def test_a_turn_without_room_is_cut_and_not_asked() -> None:
    engine = Scripted()
    engine.positions = 6

    def ask(key: tuple[str, str, int], complete: Complete) -> list[tuple[int, str]]:
        prompts: list[Prompt] = ["abcde", [1, 2, 3, 4, 5, 6], "abc"]
        return [(made.tokens, made.reason) for made in (complete(prompt, (), 9) for prompt in prompts)]

    assert dict(Turns(engine, GREEDY, ask, 7, letters).run([("sums", "a", 0)])) == {
        ("sums", "a", 0): [(5, "stop"), (0, "length"), (5, "stop")]
    }
    assert [(request.prompt, request.max_tokens) for request in engine.asked] == [
        (tuple(letters("abcde")), 1), (tuple(letters("abc")), 3),
    ]  # fmt: skip


# --- tokens and text -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose logits are large, so that no rounding changes what is greatest."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("engines") / "llama"
    write_model(folder, [message["content"] for talk in conversations(40) for message in talk])
    made = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        made.lm_head.weight *= 30
    made.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=9.0)  # not to be heeded
    made.save_pretrained(folder)
    return folder


def opened(folder: Path, batch: int = 4) -> TransformersEngine:
    engine = open_engine("transformers", folder, folder / "config.json", None, batch=batch)
    assert isinstance(engine, TransformersEngine)
    return engine


def test_stops(model: Path) -> None:
    tokenizer = opened(model).vocabulary.tokenizer
    vocabulary, end = Vocabulary(tokenizer), tokenizer.convert_tokens_to_ids(END_OF_TURN)
    sampling = Sampling(0.0, ends_of(tokenizer, [END_OF_TURN, END_OF_TEXT, "<|nothing|>"]))
    assert sampling.ends == (end, tokenizer.convert_tokens_to_ids(END_OF_TEXT))
    with pytest.raises(Failure, match=r"<\|im_end\|> is not one of its tokens; check CHAT"):
        ends_of(tokenizer, ["<|im_end|>"])
    assert vocabulary.stops(("</tool_call>", END_OF_TEXT)) == ({sampling.ends[1]: END_OF_TEXT}, ["</tool_call>"])
    ids = vocabulary.encode("add 12 34")

    def seen(more: str, stop: tuple[str, ...] = (), cut: bool = False, ends: tuple[int, ...] = ()) -> Completion:
        return vocabulary.completion(
            ids + vocabulary.encode(more), replace(sampling, ends=ends or sampling.ends), stop, cut
        )

    assert seen(END_OF_TURN) == Completion("add 12 34", len(ids) + 1, "stop", "", ids)
    assert seen("", cut=True) == Completion("add 12 34", len(ids), "length", None, ids)
    # A stop that is one token is not in the text, another one is, and so are their tokens.
    assert seen(END_OF_TEXT, (END_OF_TEXT,), ends=(end,)) == Completion(
        "add 12 34", len(ids) + 1, "stop", END_OF_TEXT, ids
    )
    tag = vocabulary.encode("</tool_call>")
    assert len(tag) > 1
    assert seen("</tool_call>", ("</tool_call>",)) == Completion(
        "add 12 34</tool_call>", len(ids + tag), "stop", "</tool_call>", ids + tag
    )
    # What the last token says after the string is left out, of the text and of the tokens.
    more = seen("</tool_call>\n", ("zz", "</tool_call>"))
    assert (more.text, more.stop) == ("add 12 34</tool_call>", "</tool_call>")
    assert vocabulary.decode(more.ids) == more.text


# --- transformers --------------------------------------------------------------------------------------------------


def requests(folder: Path, count: int, max_tokens: int = 12, stop: tuple[str, ...] = ()) -> list[Request]:
    vocabulary = opened(folder).vocabulary
    return [
        Request((n,), tuple(vocabulary.encode("add 7 " * (1 + n % 4) + str(n))), max_tokens - n % 3, 100 + n, stop)
        for n in range(count)
    ]


def answers(engine: TransformersEngine, asked: list[Request], sampling: Sampling) -> dict[int, Completion]:
    return {done[0].key[0]: done[1] for done in engine.run(iter(asked), sampling) if done}


def test_greedy_answers_are_the_model_s_own(model: Path) -> None:
    """Whatever shares a batch: token by token the largest logit, until an end or the limit of the request."""
    import torch

    engine, asked = opened(model), requests(model, 10)
    sampling = Sampling(0.0, ends_of(engine.vocabulary.tokenizer, [END_OF_TURN, END_OF_TEXT]))
    made = answers(engine, asked, sampling)
    assert len(made) == 10
    for request in asked:
        wanted: list[int] = []
        while len(wanted) < request.max_tokens and not set(wanted) & set(sampling.ends):
            with torch.inference_mode():
                wanted.append(int(engine.model(torch.tensor([[*request.prompt, *wanted]])).logits[0, -1].argmax()))
        ended = wanted[-1] in sampling.ends
        assert list(made[request.key[0]].ids) == (wanted[:-1] if ended else wanted)
        assert (made[request.key[0]].tokens, made[request.key[0]].reason) == (
            len(wanted), "stop" if ended else "length",
        )  # fmt: skip
    facts = engine.facts()
    assert (facts["engine"], facts["device"], facts["dtype"], facts["batch"]) == ("transformers", "cpu", "float32", 4)


def test_a_sample_is_by_its_seed_alone(model: Path) -> None:
    asked = requests(model, 9)
    engine = opened(model)
    sampling = Sampling(0.7, ends_of(engine.vocabulary.tokenizer, [END_OF_TURN]), top_p=0.95, top_k=50, min_p=0.01)
    made = answers(engine, asked, sampling)
    assert made == answers(opened(model, 1), asked[::-1], sampling), "alone, and in another order"
    other = answers(engine, [replace(request, seed=request.seed + 1) for request in asked], sampling)
    assert sum(other[n] != made[n] for n in made) > 4
    assert made != answers(engine, asked, replace(sampling, temperature=0.0))


def test_samples_are_drawn_as_often_as_their_probability_says(model: Path) -> None:
    """Of 3,000 draws of one token each, the share of the likeliest is its probability, within four standard errors."""
    import torch

    engine = opened(model, 1000)
    prompt = requests(model, 1)[0].prompt
    sampling = Sampling(40.0, ends=(0,))  # the logits are large
    asked = [Request((n,), prompt, 1, n) for n in range(3000)]
    drawn = [made.ids[0] if made.ids else 0 for made in answers(engine, asked, sampling).values()]
    with torch.inference_mode():
        wanted = torch.softmax(engine.model(torch.tensor([prompt])).logits[0, -1] / 40.0, -1)
    for token in wanted.topk(3).indices.tolist():
        p = float(wanted[token])
        assert abs(drawn.count(token) / 3000 - p) < 4 * (p * (1 - p) / 3000) ** 0.5
    best = int(wanted.argmax())
    only = answers(engine, asked[:50], replace(sampling, top_k=1))
    assert {tuple(made.ids) for made in only.values()} == {(best,)}


def test_a_stop_string_ends_an_answer(model: Path) -> None:
    """The others of its batch go on, and what it is padded with meanwhile is not its own."""
    engine = opened(model)
    sampling = Sampling(0.0, ends_of(engine.vocabulary.tokenizer, [END_OF_TURN]))
    plain = answers(engine, requests(model, 4, 20), sampling)
    stop = plain[0].text[3:6]
    found = answers(engine, requests(model, 4, 20, (stop,)), sampling)
    for n, made in plain.items():
        if stop not in made.text:
            assert found[n] == made
            continue
        assert (found[n].text, found[n].stop, found[n].reason) == (made.text.partition(stop)[0] + stop, stop, "stop")
        first = next(k for k in range(21) if stop in engine.vocabulary.decode(made.ids[:k]))
        assert found[n].tokens == first < made.tokens
    assert 0 < sum(made.stop == stop for made in found.values()) < 4


def test_too_many_answers_for_the_gpu(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def full(**_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    engine = opened(model)
    monkeypatch.setattr(engine.model, "generate", full)
    with pytest.raises(Interrupted, match=r"4 answers of up to 12 tokens .* set EVAL_BATCH to fewer"):
        answers(engine, requests(model, 4), GREEDY)
