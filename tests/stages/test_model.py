"""The model stage: the RoPE patch, and downloads from a stand-in of the hub."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conftest import Repo, failed, ok
from sft.lib.errors import Failure
from sft.model import rope

FLAT = {"model_type": "qwen2", "max_position_embeddings": 4096, "rope_theta": 10000, "use_cache": True}
NESTED = {"max_position_embeddings": 4096, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}
BOTH = NESTED | {"rope_theta": 10000}


@pytest.mark.parametrize("config", [FLAT, NESTED, BOTH])
def test_patch(config: dict, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    assert rope.patch_rope(file, 500000.0, 131072) is True
    patched = json.loads(file.read_text())
    assert patched["max_position_embeddings"] == 131072
    for part in (patched, patched.get("rope_parameters", {})):
        assert part.get("rope_theta", 500000.0) == 500000.0
    assert patched.keys() == config.keys() and patched.get("model_type") == config.get("model_type")
    assert rope.patch_rope(file, 500000.0, 131072) is False, "already patched"
    assert json.loads(file.read_text()) == patched and list(tmp_path.iterdir()) == [file]


REFUSED = {
    "half patched, theta": FLAT | {"rope_theta": 500000.0},
    "half patched, positions": FLAT | {"max_position_embeddings": 131072},
    "two thetas": BOTH | {"rope_theta": 500000.0},
    "another model": {"max_position_embeddings": 32768, "rope_theta": 1000000.0},
    "no theta": {"max_position_embeddings": 4096},
    "no positions": {"rope_theta": 10000},
    "scaled": FLAT | {"rope_scaling": {"type": "linear", "factor": 2}},
    "scaled, nested": {"max_position_embeddings": 4096, "rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn"}},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_patched_is_left_alone(what: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(REFUSED[what]))
    before = file.read_bytes()
    with pytest.raises(Failure, match="fetch the published config again"):
        rope.patch_rope(file, 500000.0, 131072)
    assert file.read_bytes() == before


def test_model_stage(copy: Repo) -> None:
    folder = copy.work / "models/mini"
    assert rope.loaded_rope(folder) == (500000.0, 131072)
    original = json.loads((folder / "config.original.json").read_text())
    assert (original["rope_theta"], original["max_position_embeddings"]) == (10000, 4096)
    assert "RoPE is already patched" in ok(copy.call("scripts/model.sh", "mini", "1"))
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"rope_theta": 1234.0}))
    failed(copy.call("scripts/model.sh", "mini", "1"), str(file), "neither the published")
    file.write_text("{")
    failed(copy.call("scripts/model.sh", "mini", "1"), str(file), "not valid JSON")
    file.write_text(json.dumps(config))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    failed(copy.call("scripts/model.sh", "mini", "1"), str(weights), "truncated")


# --- the hub -----------------------------------------------------------------------------------------------------

COMMIT, LATER = "a" * 40, "b" * 40


class Hub(ThreadingHTTPServer):
    """As much of the hub's HTTP as huggingface_hub asks for when it downloads a snapshot.

    Endpoints and headers as the pinned huggingface_hub uses them: GET /api/models/REPO/revision/REV answers with
    `sha` and `siblings`; HEAD and GET /REPO/resolve/COMMIT/FILE carry X-Repo-Commit, ETag and Content-Length, and
    GET honours Range; /api/datasets/REPO and /datasets/REPO alike. It can break off a transfer, move
    `main` and refuse to answer.
    """

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.main, self.break_at, self.status = files, COMMIT, 0, 200
        self.seen: list[tuple[str, str, str | None, str | None]] = []
        self.broken = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, cut: int = 0) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut] if cut else body)
            if cut:
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()

    def do_GET(self) -> None:
        hub, path = self.server, self.path.split("?")[0]
        hub.seen.append((self.command, path, self.headers.get("Range"), self.headers.get("Authorization")))
        known = ("/api/models/Qwen/Qwen2.5-Math-1.5B", "/api/models/Qwen/Qwen2.5-14B", "/api/datasets/nvidia/")
        if path.startswith(known):
            revision = path.partition("/revision/")[2] or "main"
            sha = hub.main if revision == "main" else revision
            if hub.status != 200:
                self.reply(hub.status, b"{}")
                return
            if sha not in (COMMIT, LATER):
                self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
            listed = [{"rfilename": name, "size": len(body)} for name, body in hub.files.items()]
            body = {"id": "Qwen/Qwen2.5-Math-1.5B", "modelId": "Qwen/Qwen2.5-Math-1.5B", "sha": sha, "siblings": listed}
            if "/tree/" in path:
                tree = [
                    {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                    for n, b in hub.files.items()
                ]
                self.reply(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
                return
            self.reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
            return
        commit, _, name = path.partition("/resolve/")[2].partition("/")
        if name not in hub.files or commit not in (COMMIT, LATER):
            self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = hub.files[name]
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        body = content[start:]
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = hub.break_at if name.endswith(".safetensors") and hub.break_at and self.command == "GET" else 0
        hub.broken += bool(cut)
        self.reply(206 if asked else 200, body, headers, cut)

    do_HEAD = do_GET


@pytest.fixture
def hub(prepared: Repo) -> Iterator[Hub]:
    """A hub that serves mini's weights and tokenizer, unpatched, as Qwen/Qwen2.5-Math-1.5B."""
    folder = prepared.work / "models/mini"
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in ("DONE", "config.original.json")}
    files["config.json"] = (folder / "config.original.json").read_bytes()
    files["model.bin"] = b"not wanted"
    server = Hub(files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def hub_env(hub: Hub, tmp_path: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "hf_secret",
        "HF_HUB_ETAG_TIMEOUT": "3",
        "NO_PROXY": "127.0.0.1",
    }


@pytest.mark.slow
def test_download_resumes_keeps_its_commit_and_patches(repo: Repo, hub: Hub, tmp_path: Path) -> None:
    repo.edit("recipes/openmath/qwen1.5b.env", "4a83ca6e4526a4f2da3aa259ec36c259f66b2ab2", "main")
    env = hub_env(hub, tmp_path)
    hub.break_at = 20_000
    first = repo.call("scripts/model.sh", "qwen1.5b", "1", **env)
    failed(first, "download stopped", "resume")
    assert hub.broken and not (repo.work / "models/Qwen2.5-Math-1.5B").exists()

    part = repo.work / "models/Qwen2.5-Math-1.5B.fetched.download"
    finished = {p.name for p in part.iterdir() if p.name in hub.files}
    assert "config.json" in finished and "model.safetensors" not in finished

    hub.break_at, hub.main = 0, LATER  # main moves on; the run keeps the commit that it began with
    hub.seen.clear()
    second = repo.call("scripts/model.sh", "qwen1.5b", "1", **env)
    out = ok(second)
    assert f"resuming Qwen/Qwen2.5-Math-1.5B at {COMMIT[:12]}" in out
    fetched = {path.rpartition("/")[2] for method, path, *_ in hub.seen if method == "GET" and "/resolve/" in path}
    assert "model.safetensors" in fetched and not fetched & finished, "what was complete is not fetched again"
    folder = repo.work / "models/Qwen2.5-Math-1.5B"
    done = repo.done(folder)
    assert done["revision"] == COMMIT and not (folder / "model.bin").exists()
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert rope.loaded_rope(folder) == (500000.0, 131072)
    assert (folder / "config.original.json").read_bytes() == hub.files["config.json"]
    assert any(auth == "Bearer hf_secret" for *_, auth in hub.seen)

    hub.seen.clear()
    assert "already patched" in ok(repo.call("scripts/model.sh", "qwen1.5b", "1", **env))
    assert hub.seen == [], "a finished model asks the hub for nothing"
    everything = first.stdout + first.stderr + second.stdout + second.stderr
    written = b"".join(p.read_bytes() for p in repo.work.rglob("*") if p.is_file())
    assert "hf_secret" not in everything and b"hf_secret" not in written


def test_hub_errors_name_the_remedy(repo: Repo, hub: Hub, tmp_path: Path) -> None:
    env = hub_env(hub, tmp_path)
    repo.edit("recipes/openmath/qwen1.5b.env", "4a83ca6e4526a4f2da3aa259ec36c259f66b2ab2", "no-such-branch")
    failed(repo.call("scripts/model.sh", "qwen1.5b", "1", **env), "the hub answers 404", "check the name and revision")
    env["HF_ENDPOINT"] = "http://127.0.0.1:9"
    failed(repo.call("scripts/model.sh", "qwen1.5b", "1", **env), "cannot be reached", "HF_ENDPOINT")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, ("the hub answers 401", "accept its licence", "HF_TOKEN")),
        (403, ("the hub answers 403", "accept its licence", "HF_TOKEN")),
        (429, ("the hub answers 429", "run it again later", "MODEL_SRC=dir")),
        (503, ("the hub answers 503", "run it again later", "MODEL_SRC=dir")),
        ("offline", ("HF_HUB_OFFLINE is set", "MODEL_SRC=dir")),
        ("gone", ("cannot be reached", "HF_ENDPOINT", "MODEL_SRC=dir")),
    ],
)
@pytest.mark.slow
def test_a_hub_that_does_not_answer_leaves_nothing_behind(
    repo: Repo, hub: Hub, tmp_path: Path, status: int | str, words: tuple[str, ...]
) -> None:
    """Of a pinned revision, for which nothing had to be asked: an empty folder was taken for the model, for good."""
    repo.edit("recipes/openmath/qwen1.5b.env", "4a83ca6e4526a4f2da3aa259ec36c259f66b2ab2", COMMIT)
    env = hub_env(hub, tmp_path)
    if isinstance(status, int):
        hub.status = status
    else:
        env |= {"HF_HUB_OFFLINE": "1"} if status == "offline" else {"HF_ENDPOINT": "http://127.0.0.1:9"}
    for _ in range(2):
        failed(repo.call("scripts/model.sh", "qwen1.5b", "1", **env), *words)
        assert not list((repo.work / "models").glob("Qwen*"))
    hub.status = 200
    ok(repo.call("scripts/model.sh", "qwen1.5b", "1", **hub_env(hub, tmp_path)))
    assert repo.done(repo.work / "models/Qwen2.5-Math-1.5B")["revision"] == COMMIT


@pytest.mark.slow
def test_a_download_that_was_begun_of_another_revision_is_begun_anew(repo: Repo, hub: Hub, tmp_path: Path) -> None:
    repo.edit("recipes/openmath/qwen1.5b.env", "4a83ca6e4526a4f2da3aa259ec36c259f66b2ab2", COMMIT)
    hub.break_at = 20_000
    failed(repo.call("scripts/model.sh", "qwen1.5b", "1", **hub_env(hub, tmp_path)), "download stopped")
    repo.edit("recipes/openmath/qwen1.5b.env", COMMIT, LATER)
    hub.break_at = 0
    hub.files["config.json"] = hub.files["config.json"].replace(b"{", b'{"note": "later", ', 1)
    out = ok(repo.call("scripts/model.sh", "qwen1.5b", "1", **hub_env(hub, tmp_path)))
    folder = repo.work / "models/Qwen2.5-Math-1.5B"
    assert "another revision is asked for now" in out and repo.done(folder)["revision"] == LATER
    assert json.loads((folder / "config.json").read_text())["note"] == "later"
    assert not list(folder.parent.glob("*.download*"))


def test_what_comes_is_held_against_the_listing(repo: Repo, hub: Hub, tmp_path: Path, monkeypatch) -> None:
    """As when the library is content with less than what is asked for."""
    import huggingface_hub

    from sft.lib import hub
    from sft.lib.hub import download

    def part_of_it(repo_id: str, local_dir: Path, **_: object) -> None:
        local_dir.mkdir(exist_ok=True)
        (local_dir / "config.json").write_bytes(b"{}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", part_of_it)
    files = {"config.json": 2, "model.safetensors": 9}
    monkeypatch.setattr(hub, "listing", lambda *_: (COMMIT, files))
    with pytest.raises(Failure, match=r"model\.safetensors has not come whole; run it again"):
        download("a/b", "main", tmp_path / "b", "model", ["*"])
    files["config.json"] = 3
    with pytest.raises(Failure, match=r"config\.json has not come whole"):
        download("a/b", "main", tmp_path / "b", "model", ["*.json"])
    assert not (tmp_path / "b").exists()
    with pytest.raises(Failure, match="has no file like"):
        download("a/b", "main", tmp_path / "b", "model", ["*.bin"])


def test_what_is_there_is_compared_with_what_is_asked(repo: Repo, hub: Hub, prepared: Repo, tmp_path: Path) -> None:
    """Another revision and another owner are refused; further splits are fetched; the same again asks for nothing."""
    source = prepared.work / "data/mini/source"
    hub.files = {f"data/{p.name}": p.read_bytes() for p in source.glob("*.parquet")}
    env, data = hub_env(hub, tmp_path), ("scripts/data.sh", "qwen7b", "1")
    layer = "recipes/openmath/common.env"
    repo.edit(layer, "SPLITS=cot,tir,genselect", "SPLITS=cot")
    assert "cot 200" in ok(repo.call(*data, **env, REPORT="none"))
    folder = repo.work / "data/openmathreasoning"
    assert [p.name for p in (folder / "source/data").iterdir()] == ["cot-00000-of-00001.parquet"]

    shutil.rmtree(folder / "round1")
    repo.edit(layer, "SPLITS=cot", "SPLITS=cot,tir")
    hub.main = LATER  # the files that are there are of the commit that main was
    hub.seen.clear()
    assert "cot 200, tir 40" in ok(repo.call(*data, **env, REPORT="none"))
    fetched = {path for command, path, *_ in hub.seen if command == "GET" and "/resolve/" in path}
    assert f"/datasets/nvidia/OpenMathReasoning/resolve/{COMMIT}/data/tir-00000-of-00001.parquet" in fetched
    assert not any(f"/resolve/{LATER}/" in path for path in fetched)

    shutil.rmtree(folder / "round1")
    repo.edit(layer, "DATASET_REVISION=main", f"DATASET_REVISION={LATER}")
    failed(repo.call(*data, **env), f"at main ({COMMIT[:12]}), not at {LATER[:12]}", "move", "away")
    repo.edit(layer, f"DATASET_REVISION={LATER}", f"DATASET_REVISION={COMMIT}")
    hub.seen.clear()
    assert "cot 200, tir 40" in ok(repo.call(*data, **env, REPORT="none"))
    assert hub.seen == []

    shutil.rmtree(folder / "round1")
    repo.edit(layer, "DATASET=nvidia/OpenMathReasoning", "DATASET=fork/OpenMathReasoning")
    failed(repo.call(*data, **env), "holds nvidia/OpenMathReasoning, not fork/OpenMathReasoning")


# --- a model that is here ----------------------------------------------------------------------------------------


def published(hub: Hub, folder: Path) -> Path:
    """The files of the hub's model as a plain folder."""
    folder.mkdir(parents=True)
    for name, content in hub.files.items():
        (folder / name).write_bytes(content)
    return folder


def taken(repo: Repo, hub: Hub, revision: str) -> None:
    """The model is complete, patched, and of these very weights."""
    folder = repo.work / "models/Qwen2.5-Math-1.5B"
    assert repo.done(folder)["revision"] == revision
    assert rope.loaded_rope(folder) == (500000.0, 131072)
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert (folder / "config.original.json").read_bytes() == hub.files["config.json"]
    assert not (folder / "model.bin").exists() or revision == "local"


OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
CALL = ("make", "-s", "model", "MODEL=qwen1.5b")


def test_a_model_from_a_folder(repo: Repo, hub: Hub, tmp_path: Path) -> None:
    source = published(hub, tmp_path / "given")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in source.iterdir()}
    out = ok(repo.call(*CALL, f"MODEL_SRC={source}", **OFFLINE))
    assert f"taking {source}, revision local" in out
    taken(repo, hub, "local")
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in source.iterdir()} == before
    assert (source / "model.safetensors").samefile(repo.work / "models/Qwen2.5-Math-1.5B/model.safetensors")
    assert "already there" in ok(repo.call(*CALL, f"MODEL_SRC={source}", **OFFLINE))


@pytest.mark.parametrize("inner", ["", "hub"])
def test_a_model_from_the_hubs_cache(repo: Repo, hub: Hub, tmp_path: Path, inner: str) -> None:
    """Its snapshot of the recipe's revision, or of what a moving one was; another one is not taken for it."""
    cache = tmp_path / "hf" / inner / "models--Qwen--Qwen2.5-Math-1.5B"
    blobs = published(hub, cache / "blobs")
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(COMMIT)
    snapshot = cache / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    env = OFFLINE | {"MODEL_SRC": tmp_path / "hf"}
    pinned = "4a83ca6e4526a4f2da3aa259ec36c259f66b2ab2"
    failed(repo.call(*CALL, **env), f"no snapshot of revision {pinned}", COMMIT)
    repo.edit("recipes/openmath/qwen1.5b.env", pinned, "main" if inner else COMMIT)
    ok(repo.call(*CALL, **env))
    taken(repo, hub, COMMIT)
    assert not (repo.work / "models/Qwen2.5-Math-1.5B/model.safetensors").is_symlink(), "containers see only WORK"


def test_a_model_that_was_copied_to_its_place_or_is_named_by_path(repo: Repo, hub: Hub, tmp_path: Path) -> None:
    published(hub, repo.work / "models/Qwen2.5-Math-1.5B")
    assert "put there by hand" in ok(repo.call(*CALL, **OFFLINE))
    taken(repo, hub, "local")
    shutil.rmtree(repo.work / "models")
    source = published(hub, tmp_path / "at/Qwen2.5-Math-1.5B")
    repo.edit("recipes/openmath/qwen1.5b.env", "BASE_MODEL=Qwen/Qwen2.5-Math-1.5B", f"BASE_MODEL={source}")
    ok(repo.call(*CALL, **OFFLINE))
    taken(repo, hub, "local")


@pytest.mark.slow
def test_a_folder_that_is_not_the_whole_model_is_refused(repo: Repo, hub: Hub, tmp_path: Path) -> None:
    source = published(hub, tmp_path / "given")
    weights = source / "model.safetensors"
    weights.write_bytes(hub.files["model.safetensors"][:-10])
    failed(repo.call(*CALL, f"MODEL_SRC={source}", **OFFLINE), "truncated")
    weights.rename(source / "model-00001-of-00002.safetensors")
    (source / "model-00001-of-00002.safetensors").write_bytes(hub.files["model.safetensors"])
    failed(repo.call(*CALL, f"MODEL_SRC={source}", **OFFLINE), "1 of the 2 files model")
    (source / "model-00001-of-00002.safetensors").unlink()
    failed(repo.call(*CALL, f"MODEL_SRC={source}", **OFFLINE), "has no safetensors file")
    failed(
        repo.call(*CALL, f"MODEL_SRC={tmp_path}", **OFFLINE), "no config.json and no models--Qwen--Qwen2.5-Math-1.5B"
    )
    failed(repo.call(*CALL, f"MODEL_SRC={tmp_path}/none", **OFFLINE), "is not a folder")
    assert not (repo.work / "models/Qwen2.5-Math-1.5B").exists()
    (repo.work / "models/Qwen2.5-Math-1.5B").mkdir(parents=True)
    failed(repo.call(*CALL, **OFFLINE), "has no config.json; complete it")


def test_an_unpatchable_download_is_refused(repo: Repo, hub: Hub, tmp_path: Path) -> None:
    repo.edit("recipes/openmath/qwen1.5b.env", "4a83ca6e4526a4f2da3aa259ec36c259f66b2ab2", COMMIT)
    config = json.loads(hub.files["config.json"]) | {"rope_theta": 1000000.0}
    hub.files["config.json"] = json.dumps(config).encode()
    failed(repo.call("scripts/model.sh", "qwen1.5b", "1", **hub_env(hub, tmp_path)), "neither the published")
    assert not (repo.work / "models/Qwen2.5-Math-1.5B").exists()


def test_a_pinned_commit_needs_no_resolving(repo: Repo, hub: Hub, tmp_path: Path) -> None:
    repo.edit("recipes/openmath/qwen1.5b.env", "4a83ca6e4526a4f2da3aa259ec36c259f66b2ab2", COMMIT)
    ok(repo.call("scripts/model.sh", "qwen1.5b", "1", **hub_env(hub, tmp_path)))
    assert repo.done(repo.work / "models/Qwen2.5-Math-1.5B")["revision"] == COMMIT


def test_a_data_set_comes_from_the_hub(repo: Repo, hub: Hub, prepared: Repo, tmp_path: Path) -> None:
    """qwen7b's round 1 without DATA_SRC: only the splits that are trained on, at the commit that main was."""
    source = prepared.work / "data/mini/source"
    hub.files = {f"data/{p.name}": p.read_bytes() for p in source.glob("*.parquet")}
    hub.files["data/additional_problems-00000-of-00001.parquet"] = b"not wanted"
    out = ok(repo.call("scripts/data.sh", "qwen7b", "1", **hub_env(hub, tmp_path)))
    assert "cot 200, tir 40, genselect 20" in out
    folder = repo.work / "data/openmathreasoning"
    assert json.loads((folder / "source/DOWNLOAD").read_text()) == {
        "repo": "nvidia/OpenMathReasoning",
        "kind": "dataset",
        "revision": "main",
        "commit": COMMIT,
        "patterns": sorted(f"{at}{split}-*" for split in ("cot", "tir", "genselect") for at in ("", "data/")),
    }
    assert not (folder / "source/data/additional_problems-00000-of-00001.parquet").exists()
    ours, theirs = folder / "round1/cot.jsonl", prepared.work / "data/mini/round1/cot.jsonl"
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_filters_tokenizer_comes_from_the_hub_once(repo: Repo, hub: Hub, prepared: Repo, tmp_path: Path) -> None:
    """Round 2 without TOKENIZER: only the tokenizer's files of Qwen2.5-14B, at the recipe's commit."""
    source = prepared.work / "data/mini/source"
    repo.edit("recipes/openmath/round2.env", "97e1e76335b7017d8f67c08a19d103c0504298c9", COMMIT)
    repo.edit("recipes/openmath/round2.env", "FILTER_MIN_TOKENS=5000", "FILTER_MIN_TOKENS=20")
    away = hub_env(hub, tmp_path) | {"HF_HUB_OFFLINE": "1"}
    failed(
        repo.call("scripts/data.sh", "qwen7b", "2", DATA_SRC=source, **away), "HF_HUB_OFFLINE is set", "TOKENIZER=dir"
    )
    for again in (False, True):
        out = ok(repo.call("scripts/data.sh", "qwen7b", "2", DATA_SRC=source, **hub_env(hub, tmp_path)))
        assert ("already there" in out) == again
    folder = repo.work / "tokenizers/Qwen2.5-14B"
    assert sorted(p.name for p in folder.iterdir()) == ["DOWNLOAD", "tokenizer.json", "tokenizer_config.json"]
    fetched = [path for command, path, *_ in hub.seen if command == "GET" and "/resolve/" in path]
    assert sorted(fetched) == [
        f"/Qwen/Qwen2.5-14B/resolve/{COMMIT}/{n}.json" for n in ("tokenizer", "tokenizer_config")
    ]
    done = repo.done(repo.work / "data/openmathreasoning/round2")
    assert done["inputs"]["tokenizer.json"] == hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    assert 0 < done["rows"]["all"] < sum(done["read"].values()) == 260
    for split in ("cot", "tir", "genselect"):
        assert done["rows"][split] + sum(done["dropped"][split].values()) == done["read"][split]


def test_killed_between_done_and_rename(repo: Repo, hub: Hub, tmp_path: Path) -> None:
    """A fetched folder that was finished but not yet renamed is checked and described anew."""
    repo.edit("recipes/openmath/qwen1.5b.env", "4a83ca6e4526a4f2da3aa259ec36c259f66b2ab2", COMMIT)
    ok(repo.call("scripts/model.sh", "qwen1.5b", "1", **hub_env(hub, tmp_path)))
    folder = repo.work / "models/Qwen2.5-Math-1.5B"
    before = repo.done(folder)
    folder.rename(folder.with_name(f"{folder.name}.fetched"))
    hub.seen.clear()
    ok(repo.call("scripts/model.sh", "qwen1.5b", "1", **hub_env(hub, tmp_path)))
    after = repo.done(folder)
    assert hub.seen == [] and after["outputs"] == before["outputs"] and "DONE" not in after["bytes"]


def test_round_two_starts_from_round_one(repo: Repo) -> None:
    failed(repo.call("scripts/model.sh", "qwen1.5b", "2"), "finish make train MODEL=qwen1.5b ROUND=1 first")
    assert [p.name for p in repo.work.iterdir()] == ["models"]
