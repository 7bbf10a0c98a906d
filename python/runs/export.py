"""Hand on the model that a run ends with: its folder and a model card, to a folder or to the hub.

    python python/runs/export.py tiny 1 --work work --to /data/models/tiny
    python python/runs/export.py tiny 1 --work work --to hub:owner/name        # private; HF_TOKEN from the environment

Refuses a run that is not finished, and files that are not those of its DONE. Run again after a failure, it resumes:
files that are there whole are not copied or sent again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

import os
import re
import shutil
from typing import Any

from sft.lib.done import read_done, recipe_hash, resumable_folder
from sft.lib.errors import Failure, run, usage
from sft.lib.files import read_json, sha256
from sft.lib.progress import log
from sft.recipe.chain import ending, stages
from sft.recipe.command import open_run, run_parser
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths
from sft.results.card import card, licence_of

CARD = "README.md"


def collect(recipe: Recipe, paths: Paths, again: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """(the DONE of data, model, train and final; results.json). Raises Failure for the first that is not finished."""
    done = {
        "data": read_done(paths.data, f"run: make data {again}"),
        "model": read_done(paths.start, f"run: make model {again}"),
        "train": read_done(paths.train, f"run: make train {again}"),
        "final": read_done(paths.final, f"run: make {ending(recipe)} {again}"),
    }
    if "results" not in stages(recipe):
        return done, None
    read_done(paths.results, f"run: make results {again}")
    return done, read_json(paths.results / "results.json")


def check_files(folder: Path, done: dict[str, Any], again: str) -> None:
    """Raise Failure unless the model's files are those that DONE names, by size."""
    for name, size in done["bytes"].items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            raise Failure(f"{folder / name} is missing or not of {size} bytes; make it again: remove {folder}, {again}")


def to_folder(source: Path, outputs: dict[str, str], text: str, target: Path) -> None:
    """Copy the model, each file verified by its hash, and write the card. Raises Failure."""
    if target.exists():
        same = target.is_dir() and (target / CARD).is_file() and (target / CARD).read_text(encoding="utf-8") == text
        if same and all((target / name).is_file() for name in outputs):
            log(f"export: {target} is already there")
            return
        raise Failure(f"{target} exists and is not this export; name another folder, or move it away")
    with resumable_folder(target, {"outputs": outputs, "card": recipe_hash({"card": text})}) as part:
        for name, digest in outputs.items():
            copy = part / name
            if not copy.is_file() or sha256(copy) != digest:
                shutil.copyfile(source / name, copy)
                if sha256(copy) != digest:
                    raise Failure(f"{source / name} is not what its DONE names; make the model again")
        (part / CARD).write_text(text, encoding="utf-8")
    log(f"export: {target}, {len(outputs)} files and {CARD}")


def refused(repo: str, error: Exception) -> Failure:
    """What to do about an error of huggingface_hub's, in one line; it never holds the token."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        if status in (401, 403):
            return Failure(f"{repo}: the hub answers {status}; set HF_TOKEN to a token that may write there")
        return Failure(f"{repo}: the hub answers {status}; run it again to resume")
    return Failure(
        f"{repo}: {constants.ENDPOINT} broke off ({type(error).__name__}); check the network, run it again to resume"
    )


def to_hub(source: Path, outputs: dict[str, str], text: str, repo: str, public: bool, message: str) -> None:
    """Upload the model and its card as one commit; what the hub has already is not sent again. Raises Failure."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=os.environ["HF_TOKEN"])
    for name, digest in outputs.items():
        if sha256(source / name) != digest:
            raise Failure(f"{source / name} is not what its DONE names; make the model again")
    files = [CommitOperationAdd(name, source / name) for name in sorted(outputs)]
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        if not public and not api.repo_info(repo).private:
            raise Failure(f"{repo} is there, and public; name another, or give PUBLIC=1")
        log(f"export: sending {len(files)} files and {CARD} to {repo}")
        files.append(CommitOperationAdd(CARD, text.encode()))
        commit = api.create_commit(repo, files, commit_message=message)
    except Failure:
        raise
    except Exception as error:  # the HTTP library's own errors differ between versions
        raise refused(repo, error) from None
    log(f"export: {repo} at {commit.oid[:12]}, {'public' if public else 'private'}")


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--to", help="a folder that is not there yet, or hub:OWNER/NAME")
    parser.add_argument("--public", action="store_true", help="on the hub, for everybody (default: private)")
    args, recipe, paths = open_run(parser)
    again = f"MODEL={args.model} ROUND={args.round}"
    repo = (args.to or "").removeprefix("hub:")
    hub = (args.to or "").startswith("hub:")
    if not repo:
        usage(f"TO is missing; run: make export {again} TO=dir, or TO=hub:owner/name")
    if hub and not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo):
        usage(f"TO={args.to}; write it as hub:owner/name")
    if args.public and not hub:
        usage("PUBLIC=1 is for TO=hub:owner/name; leave it out")
    if hub and not os.environ.get("HF_TOKEN"):
        usage("HF_TOKEN is not set; export a token that may write to the hub")
    done, results = collect(recipe, paths, again)
    check_files(paths.final, done["final"], f"run: make {ending(recipe)} {again}")
    name = repo.rpartition("/")[2]
    begins = licence_of("models", recipe["BASE_MODEL"]).get("name", "")
    if not name.startswith(begins):
        log(f"export: note: the licence of {recipe['BASE_MODEL']} asks for a name that begins with {begins}")
    text = card(name, (args.model, args.round), recipe, done, results)
    outputs = {n: digest for n, digest in done["final"]["outputs"].items() if n not in ("REMOVED", CARD)}
    if hub:
        to_hub(paths.final, outputs, text, repo, args.public, f"{args.model}, round {args.round}")
    else:
        to_folder(paths.final, outputs, text, Path(args.to).resolve())


if __name__ == "__main__":
    run(main)
