"""The files that a curation reads: the published data, its tokenizer and the language model."""

import http.client
import os
import shutil
import urllib.request
from pathlib import Path

from sft.lib.done import is_done, new_folder, write_done
from sft.lib.errors import Failure
from sft.lib.file_sets import check_shards
from sft.lib.progress import log
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths

LANGUAGE = "https://dl.fbaipublicfiles.com/fasttext/supervised-models/lid.176.ftz"
LISTED = 24  # values of used_in_training that DONE counts


# --- the stage ---------------------------------------------------------------------------------------------------


def source_folder(recipe: Recipe, paths: Paths, given: Path | None) -> tuple[Path, str]:
    """(folder of the source files, revision): the folder given, else generated, else downloaded, at most once."""
    if given:
        if not given.is_dir():
            raise Failure(f"DATA_SRC={given} is not a folder; give the one that holds the JSONL files")
        return given, "local"
    source, names = paths.dataset / "source", recipe["CURATE_FILES"].split(",")
    if recipe["DATASET_SOURCE"] == "hub":
        from sft.lib.hub import download

        patterns = [pattern for name in names for pattern in (f"SFT/{name}/*.jsonl", f"SFT/*/{name}.jsonl")]
        return source, download(recipe["DATASET"], recipe["DATASET_REVISION"], source, "dataset", patterns)
    from sft.data.tiny_reasoning import write_dataset

    # What decides on the generated rows; rounds that curate them in other ways share them.
    keys = {name: recipe[name] for name in ("DATASET", "SCHEMA", "GENERATE_PROBLEMS", "SEED")}
    if not is_done(source, keys, {}):
        with new_folder(source) as part:
            write_dataset(part, int(recipe["SEED"]), int(recipe["GENERATE_PROBLEMS"]))
            write_done(part, keys, {})
    return source, "generated"


def source_of(path: Path, name: str) -> str:
    """The outermost folder that is called `name` and holds the file, or the file itself."""
    parts = path.parent.parts
    return "/".join(parts[: parts.index(name) + 1]) if name in parts else str(path)


def source_files(source: Path, names: list[str]) -> list[Path]:
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


def language_model(paths: Paths, source: Path, given: Path | None, url: str) -> Path:
    """The file given, else the one that generated data brings, else that of the URL, downloaded once."""
    if given:
        return given
    if (source / "lid.bin").is_file():
        return source / "lid.bin"
    target = paths.work / "models" / "lid.176.ftz"
    if not target.is_file():
        log(f"downloading {url}")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, open(part, "wb") as file:
                shutil.copyfileobj(answer, file)
                size = answer.headers.get("Content-Length")
            if size and int(size) != part.stat().st_size:
                raise ValueError(f"{part.stat().st_size} of {size} bytes came")
            part.rename(target)
        except (urllib.error.URLError, http.client.HTTPException, ValueError, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", error))[:100]
            raise Failure(f"{url} cannot be fetched ({reason}); set LANG_MODEL to the file") from None
        finally:
            part.unlink(missing_ok=True)
    return target


def evaluation_files(recipe: Recipe, paths: Paths) -> tuple[Path, ...]:
    """The sets whose questions are kept out of the training rows: WORK/data/<set>/test.jsonl, or its source/'s."""
    found = []
    for name in recipe["CURATE_DECONTAMINATE"].split(","):
        if name == "none":
            continue
        folder = paths.work / "data" / name
        path = next((p for p in (folder / "test.jsonl", folder / "source" / "test.jsonl") if p.is_file()), None)
        if not path:
            raise Failure(f"{folder}/test.jsonl is not there, which CURATE_DECONTAMINATE names; prepare that set first")
        found.append(path)
    return tuple(found)
