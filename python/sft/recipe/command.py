"""The command line that every stage has: MODEL ROUND --work DIR."""

import argparse

from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths
from sft.recipe.read import load


def run_parser(doc: str | None) -> argparse.ArgumentParser:
    """The arguments that every stage takes: MODEL ROUND --work DIR."""
    arguments = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", help="a recipe: the name of a file in recipes/")
    arguments.add_argument("round", help="a round of that recipe")
    arguments.add_argument("--work", default="work", help="where everything is written (default: work)")
    return arguments


def open_run(arguments: argparse.ArgumentParser) -> tuple[argparse.Namespace, Recipe, Paths]:
    """Parse the command line; load the recipe that it names and the folders of its run. Raises Failure."""
    args = arguments.parse_args()
    recipe = load(args.model, args.round)
    return args, recipe, Paths(args.work, args.model, args.round, recipe)
