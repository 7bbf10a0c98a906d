"""What a folder has to hold to be read: all shards of a set, in one form, none twice."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from sft.lib.errors import Failure

# As the hub and datasets name the files of a set: cot-00003-of-00144.parquet.
SHARD = re.compile(r"(.*?)-?(\d{5})-of-(\d{5})(.*)")


def check_shards(files: Iterable[Path]) -> None:
    """Raise Failure naming the first shard of a set, by its own names "<n>-of-<m>", that is not there."""
    sets: dict[tuple[Path, str, int, str], set[int]] = {}
    for path in files:
        if match := SHARD.fullmatch(path.name):
            key = (path.parent, match[1], int(match[3]), match[4])
            sets.setdefault(key, set()).add(int(match[2]))
    for (folder, name, count, suffix), have in sets.items():
        # From 0 on, as datasets counts; weights count from 1 (model-00001-of-00004.safetensors).
        wanted = range(1, count + 1) if 0 not in have and count in have else range(count)
        missing = sorted(set(wanted) - have)
        if missing:
            raise Failure(
                f"{folder}: {len(missing)} of the {count} files {name}-*-of-{count:05d}{suffix} are missing, number "
                f"{missing[0]} is the first; fetch them, and run it again"
            )


def check_one_form(files: Iterable[Path], what: str) -> None:
    """Raise Failure where files of `what` are there in more than one form: under two names that differ in more than
    numbers, in two folders, as parquet and as JSONL. Their rows are most likely the same, and would count twice."""
    forms: dict[tuple[Path, str], Path] = {}
    for path in sorted(files):
        match = SHARD.fullmatch(path.name)
        # The number of shards is part of a form: two divisions of a set are two copies of it.
        name = f"{match[1]}-of-{match[3]}{match[4]}" if match else re.sub(r"\d+", "#", path.name)
        forms.setdefault((path.parent, name), path)
    if len(forms) > 1:
        names = " and ".join(str(path) for path in list(forms.values())[:3])
        raise Failure(f"{what} is there in {len(forms)} forms: {names}; move all but one away")


def check_no_copies(hashes: Mapping[str, str]) -> None:
    """Raise Failure for two files of the same content. hashes: name -> sha256."""
    seen: dict[str, str] = {}
    for name, digest in hashes.items():
        if digest in seen:
            raise Failure(f"{seen[digest]} and {name} are the same file; move one away")
        seen[digest] = name
