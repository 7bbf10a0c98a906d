"""The files of a benchmark: from a folder, from GitHub, or from the hub."""

import http.client
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from sft.eval.benchmarks.pins import Pin
from sft.eval.benchmarks.read import git_hash
from sft.lib.errors import Failure
from sft.lib.file_sets import check_shards
from sft.lib.files import sha256
from sft.lib.hub import download
from sft.lib.progress import log

GITHUB = "https://github.com"  # or GITHUB_ENDPOINT, a mirror
SECONDS = 60  # without a byte, after which a download counts as broken


def check(pin: Pin, path: Path, remedy: str) -> None:
    """Raise Failure when a file is not the pinned one."""
    for kind, expected, found in (("sha256", pin.sha256, sha256), ("git hash", pin.git, git_hash)):
        if expected and (have := found(path)) != expected:
            raise Failure(
                f"{path} is not {pin.name} as pinned: its {kind} is {have[:12]}, not {expected[:12]}; {remedy}"
            )


def from_folder(pin: Pin, folder: Path) -> list[Path]:
    """The files of a benchmark below a folder: as its repository has them, or named for it. Raises Failure."""
    if not folder.is_dir():
        raise Failure(f"BENCH_SRC={folder} is not a folder; give the one that holds the files")
    last = Path(pin.path)
    patterns = [pin.path, f"{last.parent.name}/{last.name}", f"{pin.name}/{last.name}"]
    patterns += [f"{pin.name}{suffix}" for suffix in (".jsonl", ".txt", ".parquet")] + [last.name]
    for pattern in dict.fromkeys(patterns):
        if found := sorted(folder.glob(pattern)):
            check_shards(found)
            for path in found:
                check(pin, path, "give the folder of that commit, or leave BENCH_SRC out")
            return found
    raise Failure(f"{folder} has no {pin.path}, nor {pin.name}.jsonl; give the folder that has")


def from_github(pin: Pin, target: Path) -> list[Path]:
    """The pinned file, downloaded below `target`, at most once. A killed download goes on where it stopped."""
    path = target / Path(pin.path).name
    if path.is_file():
        check(pin, path, f"remove it, and run it again: {path}")
        return [path]
    part = path.with_name(f"{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    endpoint = os.environ.get("GITHUB_ENDPOINT", GITHUB).rstrip("/")
    url = f"{endpoint}/{pin.repo}/raw/{pin.commit}/{pin.path}"
    bring(url, part)
    try:
        check(pin, part, "run it again, or give the file with BENCH_SRC=dir")
    except Failure:
        part.unlink()
        raise
    part.rename(path)
    return [path]


def bring(url: str, part: Path) -> None:
    """Append what is missing of `url` to `part`. Raises Failure; what has come stays."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    log(f"downloading {url}" + (f", from byte {have:,} on" if have else ""))
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            with open(part, "ab" if answer.status == 206 else "wb") as file:
                shutil.copyfileobj(answer, file)
            expected = answer.headers.get("Content-Length")
            came = part.stat().st_size - (have if answer.status == 206 else 0)
            if expected is not None and came < int(expected):
                raise Failure(f"{url}: the download stopped early; run it again to resume")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # all of it was there already
            return
        raise Failure(f"{url}: the server answers {error.code}; run it again later, or give BENCH_SRC=dir") from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, PermissionError) or getattr(error, "errno", None) == 28:
            raise
        raise Failure(
            f"{url} cannot be read ({type(error).__name__}); check the network or GITHUB_ENDPOINT, "
            "and run it again to resume, or give BENCH_SRC=dir"
        ) from None


def files_of(pin: Pin, target: Path, given: Path | None) -> tuple[list[Path], str]:
    """(files, commit) of a benchmark; `target`: where downloads are kept. Raises Failure."""
    if pin.origin == "local":
        return [Path(pin.path)], "local"
    if given:
        return from_folder(pin, given), "local" if not (pin.sha256 or pin.git) else pin.commit
    if pin.origin == "github":
        return from_github(pin, target), pin.commit
    commit = download(pin.repo, pin.commit, target, "dataset", [pin.path], "BENCH_SRC")
    return from_folder(pin, target), commit
