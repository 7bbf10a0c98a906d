"""NeMo-RL's own reading of overrides, for test_nemo_rl.py: run by the Python of docker/requirements-standin.txt.

Reads {"keys": {dotted key: default}, "overrides": [[...], ...]} as JSON, applies each list of overrides to the nested
defaults as v0.7.0's nemo_rl/utils/config.py:168-192 does, in struct mode, and prints the resolved ones as JSON.
"""

import json
import sys

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf


def main() -> None:
    given = json.load(sys.stdin)
    OmegaConf.register_new_resolver("mul", lambda a, b: a * b)
    resolved = []
    for lines in given["overrides"]:
        config = OmegaConf.create({})
        for key, default in given["keys"].items():
            OmegaConf.update(config, key, default)
        OmegaConf.set_struct(config, True)
        parsed = OverridesParser.create().parse_overrides(overrides=lines)
        ConfigLoaderImpl._apply_overrides_to_config(overrides=parsed, cfg=config)
        resolved.append(OmegaConf.to_container(config, resolve=True))
    json.dump(resolved, sys.stdout)


if __name__ == "__main__":
    main()
