"""Check and print a recipe.

python3 python/tools/recipe.py qwen7b 1            # KEY=VALUE lines, sorted
python3 python/tools/recipe.py qwen7b 1 --shell    # for bash: every key, with its value if it has one; then CHAIN
python3 python/tools/recipe.py --models            # the known models
python3 python/tools/recipe.py --keys              # every key that a recipe may have
python3 python/tools/recipe.py --table             # the same with what they mean, for docs/recipes.md
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package sft is

import argparse
import re

from sft.lib.errors import run, usage
from sft.recipe.chain import stages
from sft.recipe.keys import FORMS, KEYS
from sft.recipe.read import load, models


def table() -> str:
    """Key, the values it may have, whether each recipe must have it, and what it means."""
    lines = ["| key | value | required | meaning |", "|---|---|---|---|"]
    for name, key in KEYS.items():
        form = re.sub(r",(?=\S)", ", ", FORMS[name].words)
        meaning = re.sub(r"<\|(\w+)\|>", r"`<\\|\1\\|>`", key.meaning)
        lines.append(f"| {name} | {form} | {'yes' if key.required else ''} | {meaning} |")
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", nargs="?")
    arguments.add_argument("round", nargs="?")
    arguments.add_argument("--shell", action="store_true", help="print every key, with a value or not, and CHAIN")
    arguments.add_argument("--models", action="store_true", help="print the known models")
    arguments.add_argument("--table", action="store_true", help="print what every key means, as Markdown")
    arguments.add_argument("--keys", action="store_true", help="print every key that a recipe may have")
    args = arguments.parse_args()
    if args.models:
        print("\n".join(models()))
    elif args.table:
        print(table())
    elif args.keys:
        print("\n".join(KEYS))
    elif args.model is None or args.round is None:
        usage("say which MODEL and ROUND; known models: " + " ".join(models()))
    else:
        recipe = load(args.model, args.round)
        text = recipe["text"]
        if args.shell:
            print("\n".join(f"{key}={text[key]}" if key in text else key for key in KEYS))
            print(f"CHAIN={' '.join(stages(recipe))}")
        else:
            print("\n".join(f"{k}={v}" for k, v in sorted(text.items())))


if __name__ == "__main__":
    run(main)
