"""make plan NODES=: the file of a recipe on other GPUs, saved as its reader is told to, and read back."""

import re

import pytest

from conftest import ROOT, Repo, failed, ok
from sft.plan.scale import LAYOUT, scaled_name
from sft.recipe.read import load, models, paths_of, read_file, rounds

GPU_RECIPES = [model for model in models() if load(model, rounds(model)[0])["DEVICE"] == "gpu"]


def make(repo: Repo, model: str, nodes: int, per_node: int, *more: str, round_: str = "1"):
    return repo.call(
        "make", "-s", "plan", f"MODEL={model}", f"ROUND={round_}", f"NODES={nodes}", f"GPUS_PER_NODE={per_node}", *more
    )


def saved(repo: Repo, model: str, nodes: int, per_node: int, round_: str = "1", *more: str) -> dict[str, str]:
    """Save the file as docs/recipes.md does; the new recipe's KEY=VALUE, as make show prints them."""
    text = ok(make(repo, model, nodes, per_node, "SCALE=print", *more, round_=round_))
    name = f"{model}-{nodes}x{per_node}"
    family = paths_of()[model].parent.name
    (repo.root / f"recipes/{family}/{name}.env").write_text(text)
    assert max(map(len, text.splitlines())) <= 120
    shown = ok(repo.call("make", "-s", "show", f"MODEL={name}", f"ROUND={round_}"))
    return dict(line.split("=", 1) for line in shown.splitlines())


@pytest.mark.parametrize("model", GPU_RECIPES)
def test_layout_is_in_the_models_file(model: str) -> None:
    """Else a file beside it could not have another."""
    assert set(LAYOUT) <= read_file(paths_of()[model]).keys()


@pytest.mark.parametrize(
    "model,nodes,per_node,layout",
    [
        # The recipe's own layout wherever it fits: 64 nodes are upstream's.
        ("qwen7b", 64, 8, ("4", "2", "1", "false")),
        ("qwen14b", 64, 8, ("8", "2", "1", "false")),
        ("qwen7b", 2, 8, ("4", "2", "1", "false")),
        # 61 GB of weights and gradients over 8 GPUs, and 12 bytes a parameter of the optimizer: only TP=8 and
        # recomputation hold the rest.
        ("qwen32b", 1, 8, ("8", "1", "1", "true")),
        ("reasoning-lora", 1, 1, ("1", "1", "1", "false")),
        ("llama3-sft", 1, 8, ("2", "1", "1", "false")),
        ("qwen3-30b-a3b", 2, 8, ("4", "2", "4", "false")),
    ],
)
def test_a_saved_file_is_a_recipe(repo: Repo, model: str, nodes: int, per_node: int, layout: tuple[str, ...]) -> None:
    made = saved(repo, model, nodes, per_node)
    assert (made["NODES"], made["GPUS_PER_NODE"]) == (str(nodes), str(per_node))
    assert tuple(made[k] for k in ("TP", "CP", "EP", "ACTIVATION_CHECKPOINTING")) == layout
    own = load(model, "1")["text"]
    assert {k: v for k, v in made.items() if k not in LAYOUT} == {k: v for k, v in own.items() if k not in LAYOUT}
    planned = ok(repo.call("make", "-s", "plan", f"MODEL={model}-{nodes}x{per_node}"))
    assert "WARNING: memory" not in planned and f"{nodes} x {per_node} h100" in planned


def test_every_choice_is_explained(repo: Repo) -> None:
    text = ok(make(repo, "qwen32b", 1, 8, "SCALE=print"))
    why = {key: comment for comment, key in re.findall(r"^# (.*)\n([A-Z_]+)=", text, re.MULTILINE)}
    assert why["NODES"] == "As asked: 8 GPUs, 1 replica, by which GLOBAL_BATCH=1,024 divides."
    assert re.fullmatch(r"As in qwen32b.env. TP=4 would need [0-9.]+ GiB.", why["TP"])
    assert re.fullmatch(r"Without, it would need [0-9.]+ GiB.", why["ACTIVATION_CHECKPOINTING"])
    assert why["CP"].startswith("CP=2 is refused: 8 GPUs do not divide")
    assert text.startswith("# qwen32b on 1 x 8 h100, made by:\n# make plan MODEL=qwen32b ROUND=1 NODES=1 ")
    # What the comment says, the plan of that layout says, too: 4 GPUs' share on each.
    path = repo.root / "recipes/openmath/qwen32b-1x8.env"
    path.write_text(text.replace("\nTP=8\n", "\nTP=4\n").replace("\nCP=1\n", "\nCP=2\n"))
    planned = ok(repo.call("make", "-s", "plan", "MODEL=qwen32b-1x8"))
    assert "WARNING: memory" in planned


def test_the_plan_goes_before_the_file(repo: Repo) -> None:
    out = ok(make(repo, "qwen7b", 4, 8))
    plan, _, rest = out.partition("\n# qwen7b on 4 x 8 h100")
    assert plan.startswith("qwen7b-4x8 round 1: 4 x 8 h100") and "GPU hours" in plan
    assert out.endswith("to save it, run it again with: SCALE=print >recipes/openmath/qwen7b-4x8.env\n") and rest
    assert ok(repo.call("make", "-s", "plan", "MODEL=qwen7b", NODES="4", SCALE="print")).startswith("qwen7b round 1:")


def test_rounds_that_do_not_fit_are_left_out(repo: Repo) -> None:
    """NeMo 2.0 keeps 6 bytes a parameter on each GPU without TP, 48 GB; nemo-automodel shards them over four."""
    made = saved(repo, "reasoning-full", 1, 4)
    assert made["ROUNDS"] == "1" and made["TP"] == "1"
    text = (repo.root / "recipes/reasoning/reasoning-full-1x4.env").read_text()
    assert "# Rounds that do not fit so: nemo2, published." in text
    made = saved(repo, "qwen7b", 4, 8, "2")
    assert made["ROUNDS"] == "1,2,2exact" and made["START_FROM"] == "round1"


def test_more_memory_is_heeded(repo: Repo) -> None:
    assert saved(repo, "qwen32b", 1, 8, "1", "GPU=b200")["ACTIVATION_CHECKPOINTING"] == "false"


def test_too_few_nodes_name_the_number_that_does(repo: Repo) -> None:
    words = "no layout of qwen14b fits 1 x 4 h100", "GLOBAL_BATCH=1,024 and SEQ_LEN=32,768", "is NODES=2"
    failed(make(repo, "qwen14b", 1, 4, "SCALE=print"), *words)
    saved(repo, "qwen14b", 2, 4)
    failed(make(repo, "qwen7b", 3, 8), "no layout of qwen7b fits 3 x 8 h100", "does is NODES=4")
    failed(make(repo, "qwen1.5b", 1, 1), "the next number of nodes that does is NODES=2")
    saved(repo, "qwen1.5b", 2, 1)
    failed(make(repo, "qwen7b", 4, 8, "GPU_MEMORY=8"), "set GPU or GPUS_PER_NODE to another")


def test_wrong_use(repo: Repo) -> None:
    failed(make(repo, "tiny", 2, 8), "runs on a CPU, whose memory is not planned; leave out NODES", status=(2,))
    failed(make(repo, "qwen7b", 0, 8), "NODES=0; give a number from 1 up")
    failed(repo.call("make", "-s", "plan", "MODEL=qwen7b", "SCALE=print"), "give NODES or GPUS_PER_NODE")
    failed(repo.call("make", "-s", "train", "MODEL=qwen7b", "NODES=2"), "NODES comes from recipes/; copy")
    repo.edit("recipes/openmath/qwen7b.env", "\nNODES=64", "")
    repo.edit("recipes/openmath/common.env", "\nSEED=42", "\nSEED=42\nNODES=64")
    failed(make(repo, "qwen7b", 4, 8), "NODES is not in qwen7b.env but in a file beside it", "move it into qwen7b.env")


def test_a_scaled_recipe_is_scaled_again_under_the_models_name() -> None:
    assert scaled_name("qwen7b", 4, 8) == scaled_name("qwen7b-64x8", 4, 8) == "qwen7b-4x8"
    assert not list(ROOT.glob("recipes/*/*-[0-9]*x[0-9]*.env")), "none is committed"
