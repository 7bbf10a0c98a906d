"""What a checkout of NeMo-RL says of its SFT configuration: each key with its default, its types and whether it must be
there, as python/sft/engines/nemo_rl/versions.json records it.

    PYTHON tests/engines/nemo_rl_facts.py NEMO_RL_DIR >facts.json

PYTHON: one that can import nemo_rl (make check-nemo-rl has one). The defaults are those of examples/configs/sft.yaml as
OmegaConf reads it, the types those that pydantic makes of nemo_rl.algorithms.sft.MasterConfig.
"""

import json
import sys
from pathlib import Path
from typing import Any

TOY = "(a toy template)"  # stands for a template of several lines that no run takes


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Leaves of nested dictionaries by their dotted keys; an empty dictionary is a leaf."""
    if not isinstance(tree, dict) or not tree:
        return {path: tree}
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{path}.{key}" if path else key)
    return found


def branches(schema: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a schema, with references looked up."""
    if "$ref" in schema:
        return branches(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return [found for part in schema.get("anyOf", []) for found in branches(part, definitions)] or [schema]


def types(schema: dict[str, Any], definitions: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Dotted key -> {"types": JSON schema's names, sorted, "any" for all, "required": bool}.

    Of a section that may be written in two ways, the one with more keys decides what it must have: the other is that
    of a section with enabled=false.
    """
    found: dict[str, Any] = {}
    objects = [branch for branch in branches(schema, definitions) if "properties" in branch]
    whole = max(objects, key=lambda branch: len(branch["properties"]), default={})
    for branch in objects:
        for key, inner in branch["properties"].items():
            name = f"{path}.{key}" if path else key
            kinds = {part.get("type", "any") for part in branches(inner, definitions)}
            old = found.get(name, {"types": [], "required": False})
            kinds = sorted(kinds | set(old["types"]))
            found |= {name: {"types": kinds, "required": old["required"] or key in whole.get("required", [])}}
            found |= types(inner, definitions, name)
    return found


def facts(defaults: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Dotted key -> what is known of it, for every key that has a default or a type."""
    known = types(schema, schema["$defs"])
    found = {key: dict(fact) for key, fact in known.items()}
    for key, default in flat(defaults).items():
        found.setdefault(key, {"types": ["any"], "required": False})
        found[key]["default"] = TOY if key == "policy.tokenizer.chat_template" else default
    return dict(sorted(found.items()))


def main() -> None:
    checkout = Path(sys.argv[1])
    sys.path.insert(0, str(checkout))
    from nemo_rl.algorithms.sft import MasterConfig
    from omegaconf import OmegaConf

    defaults = OmegaConf.to_container(OmegaConf.load(checkout / "examples/configs/sft.yaml"), resolve=False)
    json.dump(facts(defaults, MasterConfig.model_json_schema()), sys.stdout, indent=1)


if __name__ == "__main__":
    main()
