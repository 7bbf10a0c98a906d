"""The files that a curation reads: the published data, its tokenizer and the language model."""

import http.client
import os
import shutil
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from sft.lib.done import is_done, new_folder, write_done
from sft.lib.errors import Failure
from sft.lib.file_sets import check_shards
from sft.lib.files import pinned, sha256
from sft.lib.progress import log
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths

LISTED = 24  # values of used_in_training that DONE counts


# --- the stage ---------------------------------------------------------------------------------------------------


def source_folder(recipe: Recipe, paths: Paths, given: Path | None) -> tuple[Path, str]:
    """(folder of the source files, revision): the folder given, else generated, else downloaded, at most once."""
    if given:
        if not given.is_dir():
            raise Failure(f"DATA_SRC={given} is not a folder; give the one that holds the JSONL files")
        return given, "local"
    source, names = paths.dataset / "source", recipe["CURATE_FILES"]
    if recipe["DATASET_SOURCE"] == "hub":
        from sft.lib.hub import download

        patterns = [pattern for name in names for pattern in (f"SFT/{name}/*.jsonl", f"SFT/*/{name}.jsonl")]
        return source, download(recipe["DATASET"], recipe["DATASET_REVISION"], source, "dataset", patterns)
    from sft.data.tiny_reasoning import write_dataset

    # What decides on the generated rows; rounds that curate them in other ways share them.
    keys = {name: recipe["text"][name] for name in ("DATASET", "SCHEMA", "GENERATE_PROBLEMS", "SEED")}
    if not is_done(source, keys, {}):
        with new_folder(source) as part:
            write_dataset(part, recipe["SEED"], recipe["GENERATE_PROBLEMS"])
            write_done(part, keys, {})
    return source, "generated"


def source_of(path: Path, name: str) -> str:
    """The outermost folder that is called `name` and holds the file, or the file itself."""
    parts = path.parent.parts
    return "/".join(parts[: parts.index(name) + 1]) if name in parts else str(path)


def source_files(source: Path, names: Sequence[str]) -> list[Path]:
    """The JSONL files that are called one of the names, or lie in a folder that is. Raises Failure for a name of none.

    The tutorial takes every file with a name anywhere in its path, WORK's own included (main.py:67).
    """
    files = sorted(path for path in source.rglob("*.jsonl") if path.is_file())
    found: dict[Path, None] = {}
    for name in names:
        mine = [p for p in files if p.stem == name or name in p.relative_to(source).parent.parts]
        if not mine:
            raise Failure(f"{source} has no {name}.jsonl and no {name}/*.jsonl; set DATA_SRC to the folder that has")
        places = {source_of(path.relative_to(source), name) for path in mine}
        if len(places) > 1:
            raise Failure(f"{source} has {name} in {len(places)} places: {' and '.join(sorted(places))}; leave one")
        check_shards(mine)
        found |= dict.fromkeys(mine)
    return list(found)


def tokenizer_folder(paths: Paths, given: Path | None, again: str) -> Path:
    """The folder of the tokenizer and its chat template: the one given, else the base model's."""
    folder = given or paths.base
    if not (folder / "tokenizer.json").is_file():
        remedy = "set TOKENIZER to a folder that has" if given else f"run: make model {again}, or set TOKENIZER"
        raise Failure(f"{folder} has no tokenizer.json; {remedy}")
    return folder


def language_model(paths: Paths, source: Path, given: Path | None, url: str | None, digest: str | None) -> Path:
    """The file given, else the one that generated data brings, else that of the URL, downloaded once.

    digest: sha256 of the first and the last, for fastText reads on and on in a file that breaks off. What is not given
    is as in docker/versions.env. Raises Failure for another file.
    """
    if not given and (source / "lid.bin").is_file():
        return source / "lid.bin"
    digest = digest or pinned("LANG_MODEL_SHA256")
    path = given or paths.work / "models" / "lid.176.ftz"
    if given and not path.is_file():
        raise Failure(f"{path} is not there; set LANG_MODEL to a fastText language model, such as lid.176.ftz")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        fetch(url or pinned("LANG_MODEL_URL"), path, digest)
    elif (found := sha256(path)) != digest:
        remedy = "fetch it again, or set LANG_MODEL_SHA256 to that of your model" if given else "remove it"
        raise Failure(f"{path} is another file, or not whole: its sha256 is {found}, not {digest}; {remedy}")
    return path


def fetch(url: str, target: Path, digest: str) -> None:
    """Download a file whose sha256 is known. Raises Failure, and leaves nothing then."""
    log(f"downloading {url}")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, open(part, "wb") as file:
            shutil.copyfileobj(answer, file)
        if (found := sha256(part)) != digest:
            raise ValueError(f"{part.stat().st_size:,} bytes came, whose sha256 is {found}, not {digest}")
        part.rename(target)
    except (urllib.error.URLError, http.client.HTTPException, ValueError, TimeoutError, ConnectionError) as error:
        reason = str(getattr(error, "reason", error))[:200]
        raise Failure(f"{url} cannot be fetched ({reason}); set LANG_MODEL to the file") from None
    finally:
        part.unlink(missing_ok=True)


def evaluation_files(recipe: Recipe, paths: Paths) -> tuple[Path, ...]:
    """The sets whose questions are kept out of the training rows: WORK/data/<set>/test.jsonl, or its source/'s."""
    found = []
    for name in recipe["CURATE_DECONTAMINATE"]:
        if name == "none":
            continue
        folder = paths.work / "data" / name
        path = next((p for p in (folder / "test.jsonl", folder / "source" / "test.jsonl") if p.is_file()), None)
        if not path:
            raise Failure(f"{folder}/test.jsonl is not there, which CURATE_DECONTAMINATE names; prepare that set first")
        found.append(path)
    return tuple(found)
