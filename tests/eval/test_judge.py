"""The judge, through a scripted server on the loopback: what is asked, how often, and what is made of it."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sft.eval.grading.judge import Judge, Judgement, at_once, read
from sft.lib.errors import Failure, Interrupted


class Server(BaseHTTPRequestHandler):
    """Answers each request from `script`, by the predicted answer that it names: texts, or statuses."""

    script: ClassVar[dict[str, list[Any]]] = {}
    asked: ClassVar[list[dict[str, Any]]] = []
    keys: ClassVar[set[str | None]] = set()
    lock: ClassVar[threading.Lock] = threading.Lock()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = body["messages"][-1]["content"].rpartition("\nPredicted answer: ")[2].partition("\n")[0]
        with self.lock:
            self.asked.append(body)
            self.keys.add(self.headers.get("Authorization"))
            steps = self.script[answer]
            step = steps.pop(0) if len(steps) > 1 else steps[0]
        if self.path != "/v1/chat/completions":
            step = 404
        if isinstance(step, int):
            self.send_error(step)
            return
        content = (
            step if isinstance(step, bytes) else json.dumps({"choices": [{"message": {"content": step}}]}).encode()
        )
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in (("script", {}), ("asked", []), ("keys", set())):
        monkeypatch.setattr(Server, name, value)
    monkeypatch.setenv("NO_PROXY", "*")
    made = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}/v1/"
    made.shutdown()
    made.server_close()


def judge(server: str, folder: Path, **options: Any) -> Judge:
    return Judge(server, "judge-32b", folder / "judged.jsonl", **({"pauses": (0.01, 0.01), "requests": 4} | options))


YES, NO = "Reasoning: the same.\nJudgement: Yes", "Reasoning: another.\nJudgement: No"


def test_no_answer_and_an_identical_one_take_no_call(server: str, tmp_path: Path) -> None:
    cases = [("p", "7", None), ("p", "7", ""), ("p", " 7", "7 "), ("q", "7", None)]
    found = judge(server, tmp_path).judgements(cases)
    assert [(each.correct, each.how) for each in found] == [
        *((False, "no answer"), (False, "no answer"), (True, "identical"), (False, "no answer"))
    ]
    assert [each.strict for each in found] == [False, False, True, False]
    assert not Server.asked and at_once("7", " ") is None  # upstream asks about a blank


def test_what_is_asked(server: str, tmp_path: Path) -> None:
    Server.script = {"x+1": [YES]}
    (found,) = judge(server, tmp_path, key="sk-secret").judgements([("What is {x}?", "1+x", "x+1")])
    assert found == Judgement(True, "judge", YES)
    (body,) = Server.asked
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge-32b", 0, 2048)
    system, user = body["messages"]
    assert system == {"role": "system", "content": ""} and user["role"] == "user"
    assert user["content"].startswith("You will be asked to look at the two answers (predicted and expected)")
    assert user["content"].endswith("Problem: What is {x}?\nPredicted answer: x+1\nExpected answer: 1+x")
    assert "12\\sqrt{35}." in user["content"] and "{{" not in user["content"]
    assert Server.keys == {"Bearer sk-secret"}
    assert "sk-secret" not in (tmp_path / "judged.jsonl").read_text()
    judge(server, tmp_path / "other", system=None).judgements([("p", "1+x", "x+1")])
    assert [turn["role"] for turn in Server.asked[-1]["messages"]] == ["user"]


@pytest.mark.parametrize(
    "text,correct,how,strict",
    [
        (YES, True, "judge", True),
        (NO, False, "judge", False),
        ("Judgement: No\nWait.\nJudgement: Yes", True, "judge", True),
        ("**Judgement**: Yes", True, "judge", False),
        ("Judgement: **Yes**", True, "judge", False),
        ("judgement: yes", True, "judge", False),
        ("Judgement: Yes/No", False, "unreadable", True),
        ("Judgement: perhaps", False, "unreadable", False),
        ("Reasoning: it was cut off", False, "unreadable", False),
        ("", False, "unreadable", False),
    ],
)
def test_verdicts(text: str, correct: bool, how: str, strict: bool) -> None:
    found = read(text)
    assert (found.correct, found.how, found.strict) == (correct, how, strict)


def test_each_case_is_asked_once_and_kept(server: str, tmp_path: Path) -> None:
    Server.script = {"a": [YES], "b": [NO]}
    cases = [("p", "1", "a"), ("p", "1", "b"), ("q", "1", "a")] * 8
    first = judge(server, tmp_path).judgements(cases)
    assert [each.correct for each in first] == [True, False, True] * 8 and len(Server.asked) == 3
    record = tmp_path / "judged.jsonl"
    with open(record, "a") as file:
        file.write('{"problem": "q", "expe')  # a killed run's last line
    again = judge(server, tmp_path).judgements([*cases, ("q", "1", "b")])
    assert again[:24] == first and not again[24].correct and len(Server.asked) == 4
    assert len([json.loads(line) for line in record.read_text().splitlines()]) == 4
    with pytest.raises(Failure, match="holds judgements of judge-32b, not another"):
        Judge(server, "another", record)


def test_a_busy_server_is_asked_again(server: str, tmp_path: Path) -> None:
    Server.script = {"a": [503, 429, YES], "b": [500, NO]}
    found = judge(server, tmp_path).judgements([("p", "1", "a"), ("p", "1", "b")])
    assert [each.correct for each in found] == [True, False]
    names = Counter(body["messages"][-1]["content"].splitlines()[-2] for body in Server.asked)
    assert names == {"Predicted answer: a": 3, "Predicted answer: b": 2}


def test_what_was_judged_outlives_a_server(server: str, tmp_path: Path) -> None:
    Server.script = {"a": [YES], "b": [503]}
    with pytest.raises(Interrupted, match="answers 503; start the server, and run it again"):
        judge(server, tmp_path, requests=1).judgements([("p", "1", "a"), ("p", "1", "b")])
    Server.script = {"b": [YES]}  # asking for a again would fail
    found = judge(server, tmp_path).judgements([("p", "1", "a"), ("p", "1", "b")])
    assert [each.correct for each in found] == [True, True]


@pytest.mark.parametrize(
    "step,words",
    [
        (401, "answers 401 .*; set OPENAI_API_KEY"),
        (404, "answers 404 .*; check its URL and model"),
        (b"<html>", "no chat completion; check"),
        (b'{"choices": []}', "no chat completion; check"),
        (b'{"choices": [{"message": {"content": null}}]}', "no chat completion; check"),
    ],
)
def test_errors_name_a_remedy(server: str, tmp_path: Path, step: Any, words: str) -> None:
    Server.script = {"a": [step]}
    with pytest.raises(Failure, match=words):
        judge(server, tmp_path).judgements([("p", "1", "a")])
    assert len(Server.asked) == 1, "asking again would not change it"


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(Interrupted, match=r"127\.0\.0\.1:9/v1/chat/completions cannot be reached"):
        judge("http://127.0.0.1:9/v1", tmp_path).judgements([("p", "1", "a")])
