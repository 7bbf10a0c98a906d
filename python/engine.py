"""What runs inside an engine's image: one training job or, of NeMo 2.0, a conversion.

    torchrun --nproc-per-node 2 python/engine.py tiny 1 --work work                    # one link; it resumes by itself
    python python/engine.py tiny 1 --work work --render                                # the engine's own configuration
    python python/engine.py reasoning-lora nemo2 --work work --import-base             # the base in NeMo's format, once
    python python/engine.py reasoning-lora nemo2 --work work --export 2000 --target D  # a step as a Hugging Face folder
    torchrun --nproc-per-node 1 python/engine.py llama3-lora published --work work --generate

NVIDIA's Python has no package of ours and may be 3.10; --render needs no NeMo. Engine nemo-rl has a driver of its own:
only --render is for it.
"""

from pathlib import Path

from sft.engines import registry
from sft.lib.errors import run
from sft.recipe.command import open_run, run_parser


def main() -> None:
    parser = run_parser(__doc__)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--render", action="store_true", help="print the engine's configuration and stop")
    action.add_argument("--import-base", action="store_true", help="convert the base model, if that is not done yet")
    action.add_argument("--generate", action="store_true", help="answer the test rows with the last checkpoint")
    action.add_argument("--export", type=int, metavar="STEP", help="write this step as a Hugging Face folder")
    parser.add_argument("--target", type=Path, help="with --export: the folder to write")
    args, recipe, paths = open_run(parser)
    if args.render:
        print(registry.part(recipe["ENGINE"], "config").text(recipe, paths))
        return
    what = next((name for name in ("import_base", "generate", "export") if getattr(args, name)), "link")
    registry.action(recipe["ENGINE"], what)(recipe, paths, args)


if __name__ == "__main__":
    run(main)
