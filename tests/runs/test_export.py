"""make export: the folder, the model card, and the upload to a hub on this machine."""

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, Repo, failed, ok
from runs.export import to_folder
from sft.lib.done import describe, write_done
from sft.recipe.read import load, models
from sft.results.card import card, licence_of, published

WEIGHTS = b"\x01" * 300_000
TOKEN = "hf_secretToken"


@pytest.fixture
def run(repo: Repo) -> Repo:
    """A finished run of tiny, as far as an export looks at it; its results are those that are committed."""
    made = repo.work / "runs/tiny/round1"
    for folder, files in (
        (repo.work / "data/tiny/round1", {"all.jsonl": b"{}\n"}),
        (repo.work / "models/tiny", {"config.json": b"{}"}),
        (made / "train", {}),
        (made / "average", {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "tokenizer.json": b"{}"}),
        (made / "results", {}),
    ):
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        facts = {"steps": 600, "links": 2, "final_loss": 0.0185} if folder.name == "train" else {}
        inputs = {"data": "d" * 64, "model": "e" * 64} if folder.name == "train" else {}
        write_done(folder, {}, inputs, **describe(folder), **facts)
    shutil.copy(ROOT / "results/tiny/results.json", made / "results/results.json")
    return repo


def export(repo: Repo, *words: str, **env: object):
    return repo.call("make", "-s", "export", "MODEL=tiny", *words, CI="true", **env)


def test_a_folder(run: Repo, tmp_path: Path) -> None:
    target = tmp_path / "models/tiny"
    ok(export(run, f"TO={target}"))
    assert sorted(p.name for p in target.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (target / "model.safetensors").read_bytes() == WEIGHTS
    text = (target / "README.md").read_text()
    for words in (
        "recipe tiny, round 1, the mean of steps 450, 500, 550, 600.",
        "| base model | tiny | `none` | none: random weights |",
        "| data | tiny | `none` | none: generated |",
        "600 steps of 32 rows in 2 link(s) of automodel, final loss 0.0185.",
        "| trained | tiny | cot | 300 | 100.0% | 0.0% | 0.0% |",
        "| trained | tiny | tir | 30 x 4 | pass@1 | 41.7 ± 2.4 |",
        "Answers of eval: greedy, of at most 96 tokens; compared by values, protocol demo.",
        "LR=3e-3",
        f"`{hashlib.sha256(WEIGHTS).hexdigest()}`",
    ):
        assert words in text, words
    assert "already there" in ok(export(run, f"TO={target}"))
    (target / "README.md").write_text("mine")
    failed(export(run, f"TO={target}"), "exists and is not this export; name another folder")


def test_an_interrupted_copy_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come whole is not copied again; what is torn is."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    files = {name: name.encode() * 1000 for name in ("a", "b", "c")}
    for name, content in files.items():
        (source / name).write_bytes(content)
    outputs = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    real, copied = shutil.copyfile, []

    def full(old: Path, new: Path) -> None:
        copied.append(new.name)
        real(old, new)
        if new.name == "b" and copied.count("b") == 1:
            new.write_bytes(b"torn")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        to_folder(source, outputs, "card", target)
    assert not target.exists()
    to_folder(source, outputs, "card", target)
    assert copied == ["a", "b", "b", "c"] and {p.name for p in target.iterdir()} == {"a", "b", "c", "README.md"}
    assert (target / "b").read_bytes() == files["b"] and sorted(tmp_path.iterdir()) == [source, target]


def test_what_is_not_finished_or_changed_is_refused(run: Repo, tmp_path: Path) -> None:
    to = f"TO={tmp_path}/x"
    weights = run.work / "runs/tiny/round1/average/model.safetensors"
    weights.write_bytes(WEIGHTS[:-1])
    failed(export(run, to), "model.safetensors is missing or not of 300000 bytes", "make average MODEL=tiny ROUND=1")
    weights.write_bytes(WEIGHTS[:-1] + b"\x02")
    failed(export(run, to), "is not what its DONE names; make the model again")
    for stage in ("results", "average", "train"):
        (run.work / f"runs/tiny/round1/{stage}/DONE").unlink()
        failed(export(run, to), f"{stage} is not finished; run: make {stage} MODEL=tiny ROUND=1")
    assert not list(tmp_path.glob("x*"))


def test_wrong_use(run: Repo, tmp_path: Path) -> None:
    failed(export(run), "TO is missing; run: make export MODEL=tiny ROUND=1 TO=dir", status=(2,))
    failed(export(run, "TO=hub:tiny", HF_TOKEN=TOKEN), "write it as hub:owner/name", status=(2,))
    failed(export(run, f"TO={tmp_path}/x", "PUBLIC=1"), "PUBLIC=1 is for TO=hub:owner/name", status=(2,))
    failed(export(run, "TO=hub:me/tiny"), "HF_TOKEN is not set; export a token", status=(2,))
    failed(
        export(run, "TO=hub:me/tiny", f"HF_TOKEN={TOKEN}"), "would be seen on a command line; export it", status=(2,)
    )


# --- the card ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", models())
def test_every_source_has_a_licence(model: str) -> None:
    """Of each base and data set of the recipes that is on the hub; and the card's YAML is what the hub reads."""
    recipe = load(model, "1")
    if recipe["BASE_SOURCE"] == "hub":
        assert licence_of("models", recipe["BASE_MODEL"])
    if recipe["DATASET_SOURCE"] == "hub":
        assert licence_of("data", recipe["DATASET"])
    final = {"recipe_sha256": "a", "finished": "now", "outputs": {"x": "b"}}
    train = {"steps": 1, "links": 1, "final_loss": 1.0, "inputs": {"data": "d", "model": "m"}}
    train["code"] = {"commit": "c" * 40, "dirty": True}
    done = {"train": train, "final": final, "model": {"revision": "r" * 40}, "data": {}}
    text = card("name", (model, "1"), recipe, done, None)
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == ("peft" if "LORA_RANK" in recipe else "transformers")
    assert front.get("base_model") == (recipe["BASE_MODEL"] if recipe["BASE_SOURCE"] == "hub" else None)
    assert "with uncommitted changes" in text and "nothing was measured" in text
    if "llama3" in front.get("license", ""):
        assert "**Built with " in text


def test_a_card_names_no_folder_of_the_machine() -> None:
    recipe = load("qwen7b", "2")
    recipe["BASE_MODEL"] = recipe["text"]["BASE_MODEL"] = "/lustre/me/secret/Base"
    train = {"steps": 1, "links": 1, "final_loss": 1.0, "inputs": {"data": "d", "model": "m"}}
    train["code"] = {"commit": "c" * 40, "dirty": False}
    final = {"recipe_sha256": "a", "finished": "now", "outputs": {}}
    text = card("n", ("qwen7b", "2"), recipe, {"train": train, "final": final, "model": {}, "data": {}}, None)
    assert (
        "lustre" not in text and "BASE_MODEL=Base" in text and "| base model | Base | `none` | not known here |" in text
    )
    assert "Training started from `qwen7b round 1`" in text
    assert published("a/b") and not published("/a/b") and not published("tiny")


# --- the hub -------------------------------------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """As much of the hub's HTTP as the pinned huggingface_hub asks for when it commits files, with LFS.

    break_after: bytes of an upload after which the connection is lost, once.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.private: bool | None = None
        self.blobs: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.tokens: set[str | None] = set()
        self.break_after, self.status = 0, 200


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def reply(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        self.reply(
            self.server.status, {"id": "me/tiny", "sha": "0" * 40, "private": self.server.private, "siblings": []}
        )

    def do_PUT(self) -> None:
        hub, oid = self.server, self.path.rpartition("/")[2]
        hub.seen.append(self.path)
        if hub.break_after:
            self.rfile.read(hub.break_after)
            self.close_connection = True
            self.connection.close()
            return
        content = self.body()
        assert hashlib.sha256(content).hexdigest() == oid
        hub.blobs[oid] = content
        self.reply(200, {})

    def do_POST(self) -> None:
        hub, content = self.server, self.body()
        hub.seen.append(self.path)
        hub.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            if hub.status != 200:
                self.reply(hub.status, {"error": "no"})
                return
            there = hub.private is not None
            hub.private = hub.private if there else json.loads(content)["visibility"] == "private"
            self.reply(409 if there else 200, {"url": f"http://127.0.0.1:{hub.server_port}/me/tiny"})
        elif self.path == "/api/validate-yaml":
            yaml.safe_load(json.loads(content)["content"].split("---\n")[1])
            self.reply(200, {"warnings": [], "errors": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "shouldIgnore": False, "oid": None,
                 "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                for f in json.loads(content)["files"]
            ]  # fmt: skip
            self.reply(200, {"files": files})
        elif self.path.endswith("/objects/batch"):
            objects = []
            for asked in json.loads(content)["objects"]:
                href = f"http://127.0.0.1:{hub.server_port}/lfs/{asked['oid']}"
                actions = {} if asked["oid"] in hub.blobs else {"actions": {"upload": {"href": href}}}
                objects.append(asked | actions)
            self.reply(200, {"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            for line in map(json.loads, content.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.blobs[value["oid"]]
            url = f"http://127.0.0.1:{hub.server_port}/me/tiny/commit/{'1' * 40}"
            self.reply(200, {"commitUrl": url, "commitOid": "1" * 40})
        else:
            self.reply(404, {})


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.mark.slow
def test_upload_is_private_resumes_and_keeps_the_token_to_itself(run: Repo, hub: Hub, tmp_path: Path) -> None:
    env = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1",
        "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf"),
    }  # fmt: skip
    hub.break_after = 1000
    first = export(run, "TO=hub:me/tiny", **env)
    failed(first, "me/tiny: ", "run it again to resume")
    assert hub.files == {} and hub.private is True
    hub.break_after = 0
    second = export(run, "TO=hub:me/tiny", **env)
    assert "me/tiny at 111111111111, private" in ok(second)
    assert sorted(hub.files) == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert hub.files["model.safetensors"] == WEIGHTS and hub.files["README.md"].startswith(b"---\nlibrary_name: ")
    hub.seen.clear()
    ok(export(run, "TO=hub:me/tiny", **env))
    assert not [path for path in hub.seen if path.startswith("/lfs/")], "what is there is not sent again"
    assert hub.tokens == {f"Bearer {TOKEN}"}
    everything = first.stdout + first.stderr + second.stdout + second.stderr
    written = b"".join(p.read_bytes() for p in run.work.rglob("*") if p.is_file())
    assert TOKEN not in everything and TOKEN.encode() not in written

    hub.private = False
    words = "me/tiny is there, and public; name another, or give PUBLIC=1"
    failed(export(run, "TO=hub:me/tiny", PUBLIC="1", **env), words)  # of the environment it means nothing
    assert "public" in ok(export(run, "TO=hub:me/tiny", "PUBLIC=1", **env))
    hub.status = 403
    failed(export(run, "TO=hub:me/tiny", **env), "the hub answers 403; set HF_TOKEN to a token that may write there")
    failed(export(run, "TO=hub:me/tiny", **env | {"HF_ENDPOINT": "http://127.0.0.1:9"}), "check the network")
