"""Downloads from the hub, each with a record of what was asked for and what came; and copies of it that are here."""

import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

from sft.lib.errors import Failure
from sft.lib.files import read_json, write_json
from sft.lib.progress import log

RECORD = "DOWNLOAD"  # in a folder that is complete: repo, kind, asked revision, commit, patterns
SOURCE = {"model": "MODEL_SRC", "dataset": "DATA_SRC"}  # what names files that are here already


def refuse(repo: str, revision: str, option: str, error: Exception) -> NoReturn:
    """Raise the Failure that says what to do about an error of huggingface_hub's; option: see download."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    here = f"give the files with {option}=dir"
    if isinstance(error, OfflineModeIsEnabled):
        raise Failure(f"{repo} is not here, and HF_HUB_OFFLINE is set; unset it, or {here}") from None
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        if status in (401, 403):
            remedy = f"accept its licence on the hub and set HF_TOKEN to a token that may read it, or {here}"
        elif status == 404:
            remedy = f"check the name and revision, set HF_TOKEN if it is private, or {here}"
        else:
            remedy = f"run it again later, or {here}"
        raise Failure(f"{repo} at revision {revision}: the hub answers {status}; {remedy}") from None
    raise Failure(
        f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}); check the network or HF_ENDPOINT, or {here}"
    ) from None


def listing(repo: str, revision: str, kind: str, option: str) -> tuple[str, dict[str, int | None]]:
    """(commit, file -> bytes) of a repository. Raises Failure when the hub does not answer or does not know it."""
    from huggingface_hub import HfApi

    try:
        found = HfApi().repo_info(repo, revision=revision, repo_type=kind, files_metadata=True)
    except Exception as error:  # the HTTP library's own errors differ between versions
        refuse(repo, revision, option, error)
    return found.sha, {file.rfilename: file.size for file in found.siblings or []}


def check_record(target: Path, have: dict[str, Any], repo: str, revision: str, kind: str) -> None:
    """Raise Failure where `target` holds another repository or revision than is asked for now."""
    away = f"move {target} away, and run it again"
    if (have["repo"], have["kind"]) != (repo, kind):
        raise Failure(f"{target} holds {have['repo']}, not {repo}; {away}")
    if revision not in (have["revision"], have["commit"]):
        old = have["commit"][:12] if len(have["revision"]) == 40 else f"{have['revision']} ({have['commit'][:12]})"
        raise Failure(f"{target} holds {repo} at {old}, not at {revision[:12]}; {away}")


def download(repo: str, revision: str, target: Path, kind: str, patterns: list[str], option: str = "") -> str:
    """Bring the files of a repository to `target`; returns the commit. Raises Failure.

    option: what names a folder that has them already, in errors (default: that of the kind).

    A moving revision such as main is resolved once. A killed download resumes at the first file that is not complete
    (within a file the pinned huggingface_hub starts over). What is there of another repository or revision is refused;
    files of further patterns are fetched beside those that are there.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    part = target.with_name(f"{target.name}.download")
    # Beside the folder: huggingface_hub takes one that holds anything for a copy, and is content with it when offline.
    note = part.with_name(f"{part.name}.json")
    if target.is_dir():
        if not (target / RECORD).is_file():
            raise Failure(f"{target} does not say what it holds; move it away, and run it again")
        have = read_json(target / RECORD)
        check_record(target, have, repo, revision, kind)
        if set(patterns) <= set(have["patterns"]):
            return have["commit"]
        log(f"{target} lacks files that are asked for now: fetching them")
        patterns, revision = sorted({*patterns, *have["patterns"]}), have["revision"]
        shutil.rmtree(part, ignore_errors=True)
        write_json(note, have | {"patterns": patterns})
        target.rename(part)
    begun = read_json(note) if note.is_file() else None
    asked = {"repo": repo, "kind": kind, "revision": revision}
    if begun and all(begun[key] == value for key, value in asked.items()):
        commit = begun["commit"]
        log(f"resuming {repo} at {commit[:12]}")
    else:
        if part.is_dir():
            log(f"removing what was begun of {begun['repo'] if begun else repo}: another revision is asked for now")
            shutil.rmtree(part)
        commit = revision
    commit, files = listing(repo, commit, kind, option or SOURCE[kind])
    wanted = list(filter_repo_objects(files, allow_patterns=patterns))
    if not wanted:
        raise Failure(f"{repo} at {commit[:12]} has no file like {', '.join(patterns[:3])}; check its name")
    part.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, asked | {"commit": commit, "patterns": sorted(patterns)})
    log(f"downloading {repo} at {commit[:12]}: {len(wanted)} files")
    try:
        snapshot_download(repo, revision=commit, repo_type=kind, local_dir=part, allow_patterns=patterns)
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno == 28:
            raise
        reason = str(error).splitlines()[0][:150]
        raise Failure(
            f"{repo}: download stopped ({reason}); run it again to resume, or check HF_TOKEN and the revision"
        ) from None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:150]
        raise Failure(f"{repo}: download stopped ({reason}); run it again to resume") from None
    for name in wanted:
        size = (part / name).stat().st_size if (part / name).is_file() else -1
        if size != (size if files[name] is None else files[name]) or size < 0:
            raise Failure(f"{repo}: {name} has not come whole; run it again to resume")
    shutil.rmtree(part / ".cache", ignore_errors=True)
    write_json(part / RECORD, asked | {"commit": commit, "patterns": sorted(patterns)})
    part.rename(target)
    note.unlink()
    return commit


# --- copies that are here ------------------------------------------------------------------------------------------


def local_copy(given: Path, repo: str, revision: str) -> tuple[Path, str]:
    """(folder, commit) of a model that is here: a folder of its files, or the hub's cache. Raises Failure.

    The cache (HF_HOME, or its folder hub) keeps models--<owner>--<name>/snapshots/<commit>, and in refs/<revision> the
    commit of a moving one. The commit of a plain folder is not known: "local".
    """
    if not given.is_dir():
        raise Failure(f"MODEL_SRC={given} is not a folder; give a model's folder, or the hub's cache")
    name = f"models--{repo.replace('/', '--')}"
    cached = next((path for path in (given / name, given / "hub" / name) if path.is_dir()), None)
    if cached is None:
        if not (given / "config.json").is_file():
            raise Failure(f"{given} has no config.json and no {name}; give the model's folder, or the hub's cache")
        return given, "local"
    ref = cached / "refs" / revision
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    folder = cached / "snapshots" / commit
    if not folder.is_dir():
        have = sorted(path.name for path in (cached / "snapshots").glob("*")) or ["none"]
        raise Failure(
            f"{cached} has no snapshot of revision {revision} (it has {', '.join(have)}); fetch that revision"
        )
    return folder, commit


def take(folder: Path, patterns: list[str], target: Path) -> None:
    """Bring a model's files into the empty folder `target`, and leave the source as it is: weights by hard link where
    that can be done, which costs no room, everything else as a copy, for it may be patched."""
    from huggingface_hub.utils import filter_repo_objects

    names = [path.name for path in sorted(folder.iterdir()) if path.is_file()]
    for name in filter_repo_objects(names, allow_patterns=patterns):
        real = (folder / name).resolve()  # the cache holds links into its blobs
        if real.suffix == ".safetensors" or name.endswith(".safetensors"):
            try:
                os.link(real, target / name)
                continue
            except OSError:  # another file system
                log(f"model: copying {name}, {real.stat().st_size / 1e9:.1f} GB")
        shutil.copyfile(real, target / name)
