"""Answers that a model compares, through a server that speaks OpenAI's chat protocol: for hle-math.

The rules are NeMo-Skills': no answer is wrong and an identical text is right, both without a call (8b18f39
nemo_skills/utils.py:475-483); else the judge is asked greedily with the prompt in judge.txt
(nemo_skills/prompt/config/judge/math.yaml), and what follows its last "Judgement:" decides. Upstream takes every
verdict for No that is not spelled just so (nemo_skills/evaluation/metrics/utils.py:36-47). Here "**Judgement**: Yes" is
a Yes, one that says neither is counted apart, and upstream's reading is kept beside it.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.data.generations.filter import is_correct
from sft.lib.errors import Failure, Interrupted
from sft.lib.files import read_jsonl, trim_torn_line

PROMPT = Path(__file__).with_name("judge.txt")
MAX_TOKENS = 2048  # nemo_skills/inference/generate.py, tokens_to_generate
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds before a refused request is sent again
SECONDS = 600.0  # until a request counts as lost

Case = tuple[str, str, str | None]  # problem, expected answer, answer


@dataclass(frozen=True)
class Judgement:
    """how: no answer, identical, judge, or unreadable, which counts as wrong. strict: upstream's reading of it."""

    correct: bool
    how: str
    text: str

    @property
    def strict(self) -> bool:
        return "Judgement:" in self.text and self.text.rpartition("Judgement:")[2].strip().lower().startswith("yes")


def at_once(expected: str, answer: str | None) -> Judgement | None:
    """The judgement that takes no judge; None where one has to be asked."""
    if not answer:
        return Judgement(False, "no answer", "Reasoning: No answer was provided.\nJudgement: No")
    if answer.strip() == expected.strip():
        return Judgement(True, "identical", "Reasoning: The two answers are identical.\nJudgement: Yes")
    return None


def read(text: str) -> Judgement:
    said = is_correct(text)
    return Judgement(said is True, "unreadable" if said is None else "judge", text)


class Judge:
    """A model behind `server`, the URL that /chat/completions comes after.

    key: of the API, default OPENAI_API_KEY. system: the system turn, None for none; the released figures had an empty
    one. record: a JSONL file to which each judgement is appended, and from which a later run goes on.
    """

    def __init__(
        self,
        server: str,
        model: str,
        record: Path,
        key: str | None = None,
        system: str | None = "",
        requests: int = 64,
        pauses: tuple[float, ...] = PAUSES,
    ):
        self.url = f"{server.rstrip('/')}/chat/completions"
        self.model, self.record, self.system, self.requests, self.pauses = model, record, system, requests, pauses
        self.key = os.environ.get("OPENAI_API_KEY", "") if key is None else key
        self.prompt = PROMPT.read_text(encoding="utf-8").rstrip("\n")
        self.known: dict[Case, str] = {}
        self.lock = threading.Lock()
        if record.is_file():
            trim_torn_line(record)
            for row in read_jsonl(record):
                if row.get("model") != model:
                    raise Failure(f"{record} holds judgements of {row.get('model')}, not {model}; move it away")
                self.known[row["problem"], row["expected"], row["answer"]] = row["text"]

    def messages(self, case: Case) -> list[dict[str, str]]:
        problem, expected, answer = case
        user = self.prompt.format(problem=problem, predicted_answer=answer, expected_answer=expected)
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": user}]

    def ask(self, client: Any, case: Case) -> str:
        """The judge's text. Raises Interrupted: at once where asking again is in vain, else after the last pause."""
        import httpx2

        body = {"model": self.model, "messages": self.messages(case), "temperature": 0.0, "max_tokens": MAX_TOKENS}
        reason = ""
        for pause in (*self.pauses, None):
            try:
                answer = client.post(self.url, json=body)
            except httpx2.HTTPError as error:
                reason = f"cannot be reached ({type(error).__name__})"
            else:
                if answer.status_code == 200:
                    return text_of(self.url, answer.content)
                reason = f"answers {answer.status_code}"
                if answer.status_code < 500 and answer.status_code not in (408, 409, 429):
                    hint = "set OPENAI_API_KEY" if answer.status_code in (401, 403) else "check its URL and model"
                    raise Interrupted(f"{self.url} {reason} ({answer.text[:100]!r}); {hint}, and run it again")
            if pause is not None:
                time.sleep(pause)
        raise Interrupted(f"{self.url} {reason}; start the server, and run it again: what is judged is kept")

    def keep(self, case: Case, text: str) -> None:
        row = dict(zip(("problem", "expected", "answer"), case, strict=True)) | {"model": self.model, "text": text}
        with self.lock, open(self.record, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.known[case] = text

    def judgements(self, cases: Iterable[Case], tick: Callable[[int], None] | None = None) -> list[Judgement]:
        """The judgement of each case, in their order; each that is alike is asked once.

        tick: called with the number of known ones. Raises Failure, or Interrupted; what was judged is kept.
        """
        import httpx2

        order = list(cases)
        new = [case for case in dict.fromkeys(order) if case not in self.known and at_once(*case[1:]) is None]
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        self.record.parent.mkdir(parents=True, exist_ok=True)
        with httpx2.Client(headers=headers, timeout=SECONDS) as client, ThreadPoolExecutor(self.requests) as threads:
            running = {threads.submit(self.ask, client, case): case for case in new}
            try:
                for future in as_completed(running):
                    self.keep(running[future], future.result())
                    if tick:
                        tick(len(self.known))
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        return [at_once(*case[1:]) or read(self.known[case]) for case in order]


def text_of(url: str, content: bytes) -> str:
    """The message of a chat completion. Raises Failure when it is none."""
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        raise Interrupted(f"{url} answers with no chat completion; check that it speaks OpenAI's protocol")
    return text
