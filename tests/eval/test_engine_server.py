"""The server engine, against a scripted server on this machine that is busy, away, broken, or other than vLLM."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_engines import CODE, PROMPTS
from vllm_model import BASE_END, CALLED, END, sampling, write_tokenizer

from sft.eval.engines.base import Completion, Engine, Request, Vocabulary, seed_of
from sft.eval.engines.driver import answer_all, play_all
from sft.eval.engines.opening import open_engine
from sft.eval.engines.samples import seeds_of
from sft.eval.engines.server import TRIES, ServerEngine
from sft.eval.modes.tir import Complete, generate
from sft.eval.sandbox.session import Result
from sft.lib.errors import Failure, Interrupted

KEY = "sk-secret-0123456789"
Reply = tuple[int, Any] | str  # status and body; or: hang, drop, half


class Server(ThreadingHTTPServer):
    """replies: what is done in place of an answer, by request, before `says` is. requests: the bodies it was sent."""

    daemon_threads = True

    def __init__(self, tokenizer: Any):
        super().__init__(("127.0.0.1", 0), Handler)
        self.vocabulary, self.lock = Vocabulary(tokenizer), threading.Lock()
        self.models: list[dict[str, Any]] = [{"id": "tiny", "object": "model", "max_model_len": 200}]
        self.hangs = 1.5  # seconds
        self.replies: list[Reply] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.says: Callable[[dict[str, Any]], dict[str, Any]] = self.vllm
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def vllm(self, body: dict[str, Any]) -> dict[str, Any]:
        """As vLLM answers: the seed in words, and a token that ends the turn."""
        return self.choice(self.vocabulary.encode(f"{body['seed']}{END}"), "stop", self.vocabulary.ids[END])

    def choice(self, ids: list[int], reason: str, stop: Any, **more: Any) -> dict[str, Any]:
        found = {"index": 0, "text": self.vocabulary.decode(ids), "finish_reason": reason, "logprobs": None}
        found |= {"token_ids": ids, "stop_reason": stop} | more
        usage = {"prompt_tokens": 1, "completion_tokens": len(ids), "total_tokens": 1 + len(ids)}
        return {
            "id": "x",
            "object": "text_completion",
            "created": 1,
            "model": "tiny",
            "choices": [found],
            "usage": usage,
        }


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/version":
            self.send(200, {"version": "0.32.0"})
        else:
            self.send(200, {"object": "list", "data": self.server.models} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/completions", self.path
        with self.server.lock:
            self.server.requests.append(body)
            self.server.keys.append(self.headers["Authorization"])
            reply = self.server.replies.pop(0) if self.server.replies else None
        if reply == "hang":
            time.sleep(self.server.hangs)
        elif reply == "half":
            self.send(200, b'{"id": "x", "choices": [{"te', length=900)
        elif isinstance(reply, tuple):
            self.send(*reply)
        elif reply is None:
            self.send(200, self.server.says(body))
        self.close_connection = reply in ("hang", "drop", "half")

    def send(self, status: int, body: Any, length: int | None = None) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length or len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server") / "tokenizer"
    write_tokenizer(folder)
    (folder / "config.json").write_text('{"max_position_embeddings": 512, "model_type": "qwen2"}')
    return folder


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def server(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = Server(tokenizer)
    threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def opened(server: Server, batch: int = 4, seconds: float = 5.0) -> ServerEngine:
    engine = ServerEngine(server.url, server.vocabulary.tokenizer, 512, batch, seconds, wait=0.01)
    server.requests.clear()
    return engine


def answers(engine: Engine, asked: list[Request], **options: Any) -> dict[int, Completion]:
    chosen = sampling(engine.vocabulary.tokenizer, 0.6, top_p=0.95, **options)  # type: ignore[attr-defined]
    return {done[0].key[0]: done[1] for done in engine.run(iter(asked), chosen) if done}


def requests(count: int, stop: tuple[str, ...] = ()) -> list[Request]:
    return [Request((n,), (10 + n, 11, 12), 30, 500 + n, stop) for n in range(count)]


def test_every_parameter_is_sent_and_prompts_are_tokens(server: Server, folder: Path) -> None:
    engine = open_engine("server", folder, folder / "config.json", None, server=server.url, batch=3)
    assert engine.facts() == {
        "engine": "server", "version": "0.32.0", "url": server.url, "model": "tiny", "prompts": "tokens",
        "max_model_len": 200, "batch": 3,
    }  # fmt: skip
    assert (engine.positions, engine.width) == (200, 3)
    server.requests.clear()
    made = answers(engine, requests(1, (CALLED, "zz")), top_k=-1)
    ids = server.vocabulary.ids
    assert server.requests == [{
        "model": "tiny", "prompt": [10, 11, 12], "max_tokens": 30, "n": 1, "temperature": 0.6, "top_p": 0.95,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": 500, "stop": [CALLED, "zz"], "top_k": -1,
        "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": [ids[END], ids[BASE_END], ids[CALLED]],
        "add_special_tokens": False, "skip_special_tokens": False, "include_stop_str_in_output": True,
        "return_token_ids": True,
    }]  # fmt: skip
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert made == {0: Completion("500", 4, "stop", "", server.vocabulary.encode("500"))}


def test_many_at_once(server: Server) -> None:
    made = answers(opened(server, batch=7), requests(50))
    assert {n: one.text for n, one in made.items()} == {n: str(500 + n) for n in range(50)}
    assert len(server.requests) == 50


@pytest.mark.parametrize(
    "reply",
    [
        (500, {"error": {"message": "engine is busy"}}),
        (503, b"<html>starting</html>"),
        (429, {"error": {"message": "slow down"}}),
        (200, b'{"choices": [{"text"'),
        (200, {"id": "x", "object": "text_completion", "choices": []}),
        (200, {"id": "x", "choices": [{"index": 0, "text": None, "finish_reason": "stop"}]}),
        (200, {"id": "x", "choices": [{"index": 0, "text": "a", "finish_reason": "abort"}]}),
        (200, []),
        "hang",
        "drop",
        "half",
    ],
    ids=str,
)
def test_what_goes_wrong_is_tried_again(server: Server, reply: Reply) -> None:
    engine = opened(server, seconds=0.5 if reply == "hang" else 5.0)
    server.replies = [reply, reply]
    assert [one.text for one in answers(engine, requests(1)).values()] == ["500"]
    assert len(server.requests) == 3 and server.requests[0] == server.requests[2], "with the same seed"


@pytest.mark.parametrize("reply", [(500, {"error": {"message": f"no {KEY} here"}}), "drop"], ids=str)
def test_a_server_that_stays_away_interrupts(server: Server, tmp_path: Path, reply: Reply) -> None:
    """What is answered is kept; the same run goes on when the server is there again."""
    engine, target = opened(server, batch=1), tmp_path / "sums.samples.jsonl"

    def run() -> list[dict[str, Any]]:
        chosen = sampling(server.vocabulary.tokenizer, 0.6)
        seeds = seeds_of([("sums", name) for name in PROMPTS], 2, 7)
        answer_all(lambda: engine, chosen, lambda key: PROMPTS[key[1]], target, seeds, 30)
        return [json.loads(line) for line in target.read_text().splitlines()]

    says = server.says

    def away_after_two(body: dict[str, Any]) -> dict[str, Any]:
        if len(server.requests) == 2:
            server.replies = [reply] * TRIES
        return says(body)

    server.says = away_after_two
    with pytest.raises(
        Interrupted, match=rf"the server {server.url} gave no answer in 6 tries .*; see that it"
    ) as error:
        run()
    assert KEY not in str(error.value) and len(server.requests) == 2 + TRIES
    assert (tmp_path / "sums.samples.jsonl.part").read_text().count("\n") == 2
    rows = run()
    assert [row["text"] for row in rows] == [str(seed_of(7, "sums", f"p{n}", k)) for k in (0, 1) for n in range(3)]
    assert len(server.requests) == 2 + TRIES + 4


def test_an_answer_that_is_waited_for_does_not_hold_up_an_error(server: Server) -> None:
    engine = opened(server, batch=2, seconds=60)
    server.hangs = 12.0
    server.replies = ["hang", (400, {"object": "error", "message": "no such seed", "code": 400})]
    began = time.monotonic()
    with pytest.raises(Failure, match=r"refuses a request \(400 no such seed\); see its log"):
        answers(engine, requests(2))
    assert time.monotonic() - began < server.hangs - 1


@pytest.mark.parametrize(
    "status, message, remedy",
    [
        (401, f"Incorrect API key provided: {KEY}", r"401 Incorrect API key provided: \*\*\*\); set OPENAI_API_KEY"),
        (404, "The model does not exist", "404 The model does not exist.; check the URL, which ends in /v1"),
        (422, "n has to be 2", r"422 n has to be 2\); see its log"),
    ],
)
def test_a_refusal_is_not_tried_again(server: Server, status: int, message: str, remedy: str) -> None:
    engine = opened(server)
    server.replies = [(status, {"error": {"message": message}})]
    with pytest.raises(Failure, match=remedy) as error:
        answers(engine, requests(1))
    assert KEY not in str(error.value) and len(server.requests) == 1


def test_the_model_is_the_server_s_only_one_or_named(server: Server, folder: Path) -> None:
    def model(url: str) -> str:
        return open_engine("server", folder, folder / "config.json", None, server=url).facts()["model"]

    server.models.append({"id": "other", "object": "model"})
    assert model(f"{server.url}#other") == "other"
    with pytest.raises(Failure, match=r"has other, tiny; name one of its models: URL#MODEL"):
        model(server.url)
    with pytest.raises(Failure, match=r"has other, tiny; name one"):
        model(f"{server.url}#third")
    with pytest.raises(Failure, match=r"the server's URL 127.0.0.1:8000 is none; give http://HOST:PORT/v1"):
        model("127.0.0.1:8000")
    with pytest.raises(Failure, match="engine server needs the URL of one; give"):
        model("")
    user = server.url.replace("//", "//user:hidden@")
    assert "hidden" not in str(
        open_engine("server", folder, folder / "config.json", None, server=f"{user}#tiny").facts()
    )


# --- other servers than vLLM ---------------------------------------------------------------------------------------


def test_a_server_that_takes_text_only(server: Server) -> None:
    def text_only(body: dict[str, Any]) -> dict[str, Any]:
        assert isinstance(body["prompt"], str)
        return server.vllm(body)

    server.replies = [(400, {"error": {"message": "prompt must be a string"}})]
    server.says = text_only
    engine = opened(server)
    assert engine.facts()["prompts"] == "text"
    request = replace(requests(1)[0], prompt=tuple(server.vocabulary.encode(f"a{END}")))
    assert answers(engine, [request])[0].text == "500" and server.requests[-1]["prompt"] == f"a{END}"


@pytest.mark.parametrize(
    "text, reason, said, stop, kept",
    [
        ("x = 1\n", "stop", CALLED, CALLED, "x = 1\n"),  # the string is left out, and told
        (f"x = 1\n{CALLED}", "stop", None, CALLED, f"x = 1\n{CALLED}"),  # it is there
        ("x = 1\n", "stop", None, None, "x = 1\n"),  # nobody knows
        (f"done{END}", "stop", None, "", "done"),  # the end of the turn
        ("done", "length", None, None, "done"),
    ],
)
def test_a_server_that_sends_no_tokens(
    server: Server, text: str, reason: str, said: str | None, stop: str | None, kept: str
) -> None:
    ids = server.vocabulary.encode(text)
    server.says = lambda _: server.choice(ids, reason, said, token_ids=None)
    made = answers(opened(server), requests(1, (CALLED,)))[0]
    assert made == Completion(kept, len(ids), reason, stop, server.vocabulary.encode(kept))  # type: ignore[arg-type]


# --- code calls ----------------------------------------------------------------------------------------------------


class Upper:
    def run(self, code: str) -> Result:
        return Result(code.upper(), "", "ok", 0.0)


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "no tokens"])
def test_code_calls_end_in_the_exact_transcript(server: Server, tmp_path: Path, tokens: bool) -> None:
    """A call, its output, and an answer; the second turn is asked with the very tokens of the first."""
    vocabulary = server.vocabulary
    code, last = "<tool_call>\nx\n</tool_call>", f"It is X.{END}"

    def says(body: dict[str, Any]) -> dict[str, Any]:
        again = vocabulary.ids[CALLED] in body["prompt"]
        ids, stop = (vocabulary.encode(last), vocabulary.ids[END]) if again else (vocabulary.encode(code), CALLED)
        made = server.choice(ids, "stop", stop)
        if not tokens:
            del made["choices"][0]["token_ids"]
        return made

    server.says = says
    server.models[0]["max_model_len"] = 4096
    engine = opened(server)

    def play(key: tuple[str, str, int], complete: Complete) -> dict[str, Any]:
        made = generate(complete, Upper(), f"<{key[1]}>", 100, CODE, vocabulary.encode)
        return {"text": made["generation"], "tokens": made["tokens"]}

    target, seeds = tmp_path / "sums.samples.jsonl", seeds_of([("sums", "a"), ("sums", "b")], 3, 7)
    play_all(lambda: engine, sampling(vocabulary.tokenizer, 0.6), play, target, seeds, 7, vocabulary.encode)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    block = (
        "\n```output\nX\n```\n```system\nRemaining code executions: 7. You will not be able to call code when you run "
        "out of executions, so use it wisely. Note that you can still continue solving the problem without code after "
        "that.\n```\n"
    )
    assert [row["text"] for row in rows] == [f"{code}{block}It is X."] * 6
    assert {row["tokens"] for row in rows} == {len(vocabulary.encode(code)) + len(vocabulary.encode(last))}
    prompts = [vocabulary.decode(body["prompt"]) for body in server.requests]
    assert sorted(prompts) == sorted(
        f"<{name}>{shown}" for name in "ab" for shown in ("", code + block) for _ in range(3)
    )
    assert sorted(body["seed"] for body in server.requests) == sorted(
        seed_of(7, "sums", name, sample, turn) for name in "ab" for sample in range(3) for turn in range(2)
    )
