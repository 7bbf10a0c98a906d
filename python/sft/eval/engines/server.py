"""Answers of a server that speaks OpenAI's completions protocol, such as `vllm serve` or SGLang.

Never its chat protocol: the server's own template would ask in another way than the model was trained. Prompts are
tokens, or text where a server does not take tokens. The key of a server that wants one is OPENAI_API_KEY.
"""

import json
import os
import queue
import re
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

from sft.eval.engines.base import Completion, Finished, Request, Sampling, Vocabulary
from sft.lib.errors import Failure, Interrupted
from sft.lib.progress import log

BATCH = 256
TRIES = 6  # the waits between them: 1, 2, 4, 8 and 16 s
SECONDS = 3600.0  # for one answer
AGAIN = (408, 409, 425, 429)  # and all from 500 up


class ServerEngine:
    """url: up to /v1; after a `#` the name of the model, if the server has several."""

    name = "server"

    def __init__(
        self,
        url: str,
        tokenizer: Any,
        positions: int,
        batch: int | None = None,
        seconds: float = SECONDS,
        wait: float = 1.0,
    ):
        import openai

        url, _, model = url.partition("#")
        if not re.fullmatch(r"https?://[^\s]+", url):
            raise Failure(f"the server's URL {without_password(url)} is none; give http://HOST:PORT/v1", status=2)
        self.url = without_password(url)
        self.key = os.environ.get("OPENAI_API_KEY", "")
        self.client = openai.OpenAI(
            base_url=url, api_key=self.key or "none", max_retries=0, timeout=openai.Timeout(seconds, connect=10.0)
        )
        self.vocabulary, self.width, self.wait, self.ending = (
            Vocabulary(tokenizer),
            batch or BATCH,
            wait,
            threading.Event(),
        )
        served = self.served(model)
        self.model = served["id"]
        self.positions = min(positions, served.get("max_model_len") or positions)
        self.as_text = False
        self.as_text = not self.takes_tokens()
        self.version = version_of(url)

    def served(self, name: str) -> dict[str, Any]:
        """The server's entry of the model. Raises Failure when it is not the only one, and not named."""
        found = {entry.id: entry.model_dump() for entry in self.call(lambda: list(self.client.models.list()))}
        if name and name in found:
            return found[name]
        if name or len(found) != 1:
            raise Failure(
                f"the server {self.url} has {', '.join(sorted(found)) or 'no model'}; name one of its models: URL#MODEL"
            )
        return next(iter(found.values()))

    def takes_tokens(self) -> bool:
        try:
            self.ask(Request((), tuple(self.vocabulary.encode("1")), 1, 0), Sampling(0.0, ()))
        except Refused as refused:
            if refused.code not in (400, 422):
                raise
            log(f"eval: the server takes no tokens as a prompt ({refused.reason}); it is sent text")
            return False
        return True

    def facts(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "version": self.version,
            "url": self.url,
            "model": self.model,
            "prompts": "text" if self.as_text else "tokens",
            "max_model_len": self.positions,
            "batch": self.width,
        }

    def run(self, source: Iterator[Request | None], sampling: Sampling) -> Iterator[Finished | None]:
        asked: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[Request, Completion | BaseException]] = queue.SimpleQueue()
        self.ending = ending = threading.Event()

        def work() -> None:
            while (request := asked.get()) is not None and not ending.is_set():
                try:
                    done.put((request, self.ask(request, sampling)))
                except BaseException as error:
                    done.put((request, error))

        # They end with the process: an answer that nobody waits for any more may take an hour.
        threads, held, more = 0, 0, True
        try:
            while more or held:
                while more and held < self.width:
                    try:
                        request = next(source)
                    except StopIteration:
                        more = False
                        break
                    if request is None:
                        break
                    if held == threads:
                        threading.Thread(target=work, daemon=True).start()
                        threads += 1
                    asked.put(request)
                    held += 1
                try:
                    # While the source may have more at any time, it is looked at 20 times a second.
                    answer = done.get(timeout=0.05 if more and held < self.width else None) if held else None
                except queue.Empty:
                    answer = None
                if answer is None:
                    yield None
                    continue
                held -= 1
                if isinstance(answer[1], BaseException):
                    raise answer[1]
                yield answer[0], answer[1]
        finally:
            ending.set()
            for _ in range(threads):
                asked.put(None)

    def ask(self, request: Request, sampling: Sampling) -> Completion:
        """One request, until it is answered. Raises Refused, or Interrupted when all tries failed."""
        prompt = self.vocabulary.decode(request.prompt) if self.as_text else list(request.prompt)
        single, _ = self.vocabulary.stops(request.stop)
        options: dict[str, Any] = {"stop": list(request.stop)} if request.stop else {}
        return self.call(
            lambda: self.completion(
                self.client.completions.create(
                    model=self.model,
                    prompt=prompt,
                    max_tokens=request.max_tokens,
                    n=1,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    presence_penalty=0.0,
                    frequency_penalty=0.0,
                    seed=request.seed,
                    # Not OpenAI's own, but vLLM's, SGLang's and others'.
                    extra_body={
                        "top_k": sampling.top_k,
                        "min_p": sampling.min_p,
                        "repetition_penalty": sampling.repetition_penalty,
                        "stop_token_ids": [*sampling.ends, *single],
                        "add_special_tokens": False,
                        "skip_special_tokens": False,
                        "include_stop_str_in_output": True,
                        "return_token_ids": True,
                    },
                    **options,
                ),
                request,
                sampling,
            )
        )

    def completion(self, answer: Any, request: Request, sampling: Sampling) -> Completion:
        """What a server's answer says. Raises ValueError for one that is no whole answer."""
        choice = answer.choices[0] if getattr(answer, "choices", None) else None
        reason = getattr(choice, "finish_reason", None)
        if choice is None or reason not in ("stop", "length") or not isinstance(choice.text, str):
            raise ValueError(f"no whole answer, finish_reason {reason}")
        ids = getattr(choice, "token_ids", None)
        if ids:
            return self.vocabulary.completion(ids, sampling, request.stop, reason == "length")
        if not answer.usage:
            raise ValueError("no usage")
        return self.from_text(choice, answer.usage.completion_tokens, request, sampling)

    def from_text(self, choice: Any, tokens: int, request: Request, sampling: Sampling) -> Completion:
        """Of a server that does not send tokens: text with or without what it stopped at."""
        text, stop = choice.text, None
        said = getattr(choice, "stop_reason", None)
        ends = [self.vocabulary.decode([end]) for end in sampling.ends]
        if met := [string for string in request.stop if text.endswith(string) or said == string]:
            stop = met[0]
        elif end := next((end for end in ends if text.endswith(end)), None):
            text, stop = text.removesuffix(end), ""
        elif not request.stop or said in sampling.ends:
            stop = ""
        if choice.finish_reason == "length":
            stop = None
        return Completion(text, tokens, choice.finish_reason, stop, self.vocabulary.encode(text))

    def call(self, ask: Any) -> Any:
        """What a call returns; it is made again while the server is busy, away, or says nothing that makes sense."""
        import openai

        for attempt in range(TRIES):
            if attempt and self.ending.wait(self.wait * 2 ** (attempt - 1)):
                break
            try:
                return ask()
            except openai.APIStatusError as error:
                what = self.hide(f"{error.status_code} {reason_of(error)}")
                if error.status_code < 500 and error.status_code not in AGAIN:
                    raise Refused(self.url, error.status_code, what) from None
            except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
                what = self.hide(str(error) or type(error).__name__)
        raise Interrupted(
            f"the server {self.url} gave no answer in {TRIES} tries ({what[:200]}); see that it runs, "
            "and run this again: what is answered is kept"
        )

    def hide(self, text: str) -> str:
        return " ".join((text.replace(self.key, "***") if self.key else text).split())

    def close(self) -> None:
        self.client.close()


class Refused(Failure):
    """The server will not do what it is asked, however often."""

    def __init__(self, url: str, code: int, reason: str):
        remedies = {401: "set OPENAI_API_KEY", 403: "set OPENAI_API_KEY", 404: "check the URL, which ends in /v1"}
        super().__init__(f"the server {url} refuses a request ({reason[:300]}); {remedies.get(code, 'see its log')}")
        self.code, self.reason = code, reason


def reason_of(error: Any) -> str:
    """The server's own words."""
    body = error.body
    while isinstance(body, dict):
        body = body.get("error") or body.get("message") or body.get("detail") or ""
    return str(body or error.message)


def without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def version_of(url: str) -> str | None:
    """As vLLM tells it; None of a server that does not."""
    try:
        with urllib.request.urlopen(re.sub(r"/v1/?$", "", url) + "/version", timeout=10) as answer:
            return str(json.load(answer)["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
