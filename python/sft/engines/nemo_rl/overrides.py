"""NeMo-RL's keys: their types by version, and values as Hydra reads them on a command line."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.lib.errors import Failure, usage
from sft.lib.files import pinned, read_json

# Keys that v0.7.0 reads but its sft.yaml does not list: where it reads them.
RESPONSE = "nemo_rl/data/datasets/response_datasets/response_dataset.py:42-52"
ADDED = {
    **{
        f"data.{part}.{key}": RESPONSE
        for part in ("train", "validation")
        for key in ("data_path", "input_key", "output_key", "split_validation_size")
    },
    "policy.scheduler": "nemo_rl/models/automodel/setup.py:824-848",
    "checkpointing.model_save_format": "nemo_rl/utils/checkpoint.py:100",
    "checkpointing.save_consolidated": "nemo_rl/utils/checkpoint.py:101",
    "logger.wandb.id": "nemo_rl/utils/logger.py:209, passed to wandb.init",
    "logger.wandb.resume": "nemo_rl/utils/logger.py:209, passed to wandb.init",
}
# JSON schema's names of types -> the types of Python that are taken for them.
TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
    "any": (int, float, bool, str, list, dict, type(None)),
}

FACTS = Path(__file__).with_name("versions.json")
SCHEDULERS = "torch.optim.lr_scheduler"
DURATION = re.compile(r"\d\d:([01]\d|2[0-3]):[0-5]\d:[0-5]\d", re.ASCII)
RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")


@dataclass(frozen=True)
class Version:
    """What is recorded of a version of NeMo-RL in versions.json.

    keys: dotted key -> {"types", "required", and "default" where sft.yaml lists it}. renamed: v0.7.0's key -> this
    one's. marker, resume_files, background: see the file.
    """

    name: str
    commit: str
    marker: str
    resume_files: tuple[str, ...]
    background: bool
    keys: dict[str, dict[str, Any]]
    renamed: dict[str, str]
    like: str = ""

    def listed(self, key: str) -> bool:
        """Whether sft.yaml has the key, or a section of that name."""
        return "default" in self.keys.get(key, {}) or any(
            known.startswith(f"{key}.") and "default" in fact for known, fact in self.keys.items()
        )


def versions() -> list[str]:
    """The versions of NeMo-RL that there are facts of, the oldest first."""
    return [name for name in read_json(FACTS) if not name.startswith("_")]


def load_version(name: str = "") -> Version:
    """The facts of a version; by default, of the image that docker/versions.env names. Raises Failure (status 2).

    name: as in versions.json, or a release of it, such as 0.7.1 or v0.7.0.
    """
    if not name:
        name = pinned("NEMO_RL_IMAGE").rpartition(":")[2]
    found = read_json(FACTS)
    short = re.sub(r"^v?(\d+\.\d+)\.\d+$", r"\1", name)
    if short not in versions():
        usage(f"NEMO_RL_VERSION={name} is not known here; it is {', '.join(versions())}")
    facts = found[short]
    base = found[facts["like"]]["keys"] if "like" in facts else {}
    keys = {key: fact for key, fact in {**base, **facts["keys"]}.items() if fact is not None}
    rest = {key: facts[key] for key in ("commit", "marker", "background")} | {"like": facts.get("like", "")}
    return Version(
        short, keys=keys, renamed=facts.get("renamed", {}), resume_files=tuple(facts["resume_files"]), **rest
    )


def validate_must_save_by(text: str) -> str:
    """`text` if NeMo-RL can read it: four numbers (v0.7.0 nemo_rl/utils/timer.py:260). Raises Failure (status 2).

    Slurm's own D-HH:MM:SS, and no time at all, would end the link when training starts.
    """
    if not DURATION.fullmatch(text) or text == "00:00:00:00":
        usage(f"{text!r} is not a time to save by; write DD:HH:MM:SS, such as 00:03:45:00")
    return text


# --- Hydra's grammar ---------------------------------------------------------------------------------------------


def quote(text: str) -> str:
    """A string of Hydra's grammar (1.3), quoted where it must be. Raises Failure for what no override can hold."""
    if not text.isprintable() or "${" in text:
        usage(f"{text!r} holds a control character or an expression that NeMo-RL would expand; choose another name")
    if PLAIN.fullmatch(text) and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    # Only a backslash that stands before a quote is special: double those, then escape the quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + m[2].replace("'", "\\'"), text) + "'"


def render(value: Any) -> str:
    """A value in Hydra's grammar. Raises Failure for a string that no override can hold."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return quote(value)
        case Mapping():
            return "{" + ",".join(f"{key}:{render(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ",".join(map(render, value)) + "]"
        case _:
            return repr(value)


def check(key: str, value: Any, version: Version) -> str:
    """`key` as an override has to write it: with + if sft.yaml does not list it. Raises Failure.

    Refused are a key that `version` does not read, and a value of another type than its configuration takes: NeMo-RL
    itself looks at types only once the job runs (v0.7.0 examples/run_sft.py:178).
    """
    fact = version.keys.get(key)
    if key not in ADDED and (fact is None or not version.listed(key)):
        raise Failure(
            f"NeMo-RL {version.name} has no key {key}; fix the mapping in python/sft/engines/nemo_rl/config.py"
        )
    names = fact["types"] if fact else ["string"]  # wandb's own: NeMo-RL hands them on
    if type(value) not in {kind for name in names for kind in TYPES[name]}:
        kinds = " or ".join(names)
        raise Failure(
            f"NeMo-RL's {key} is {kinds}, not {value!r}; fix the mapping in python/sft/engines/nemo_rl/config.py"
        )
    return f"+{key}" if key in ADDED else key


def check_complete(values: dict[str, Any], version: Version) -> None:
    """Raise Failure where a key is missing that `version` demands of a section that is on."""
    present = {key for key, fact in version.keys.items() if "default" in fact} | set(values)

    def on(section: str) -> bool:
        parts = section.split(".")
        above = [".".join(parts[: n + 1]) for n in range(len(parts))]
        enabled = {values.get(f"{s}.enabled", version.keys.get(f"{s}.enabled", {}).get("default")) for s in above}
        there = any(key.startswith(f"{section}.") for key in present)
        return there and False not in enabled and not any(values.get(s, "") is None for s in above)

    for key, fact in version.keys.items():
        there = key in present or any(known.startswith(f"{key}.") for known in present)
        if fact["required"] and not there and on(key.rpartition(".")[0]):
            raise Failure(
                f"NeMo-RL {version.name} demands {key}; fix the mapping in python/sft/engines/nemo_rl/config.py"
            )
