"""A recipe is written once: bash and Python read the same, and nonsense is refused before it costs anything."""

import re
import shutil
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from conftest import ROOT, Repo, changed, failed, ok
from sft.lib.errors import Failure
from sft.recipe import read
from sft.recipe.chain import ending, stages
from sft.recipe.engines import Engine
from sft.recipe.keys import KEYS, LINEAR, Recipe, stage_keys
from sft.recipe.paths import Paths
from sft.recipe.read import files, load, models, rounds

RUNS = [(m, r) for m in models() for r in rounds(m)]

# The upstream table and commands, copied here by hand a second time on purpose: a slip in recipes/ must not pass.
# NeMo-Skills 8b18f39 docs/releases/openmathreasoning/training.md:92-123, :138, :145-155.
TABLE = {
    "qwen1.5b": ("Qwen/Qwen2.5-Math-1.5B", 3e-4, 3e-7, 1, 2, True),
    "qwen7b": ("Qwen/Qwen2.5-Math-7B", 2e-4, 2e-7, 4, 2, True),
    "qwen14b": ("Qwen/Qwen2.5-14B", 1e-4, 1e-7, 8, 2, False),
    "qwen32b": ("Qwen/Qwen2.5-32B", 1e-4, 1e-7, 8, 4, False),
}
ROUNDS = {
    "1": (30000, 3000, 7500, [7500, 15000, 22500, 30000], "none", "base"),
    "2": (3000, 300, 750, [750, 1500, 2250, 3000], "cot,tir,genselect", "round1"),
    "2exact": (10000, 1000, 2500, [2500, 5000, 7500, 10000], "cot", "round1"),
}


SHELL = """
. scripts/lib.sh
load_recipe "$1" "$2"
while read -r key; do
    [[ ! -v $key ]] || printf '%s=%s\n' "$key" "${!key}"
done < <(python3 python/tools/recipe.py --keys | LC_ALL=C sort)
"""


@pytest.mark.parametrize("model,round_", RUNS)
def test_the_shell_reads_the_recipe_and_nothing_else(model: str, round_: str, repo: Repo) -> None:
    """Every key there is also stands in the environment, with a value that no recipe has."""
    environment = dict.fromkeys(KEYS, "leaked")
    printed = ok(repo.call("make", "-s", "show", f"MODEL={model}", f"ROUND={round_}", **environment))
    assert len(printed.splitlines()) > 30 and "leaked" not in printed
    assert ok(repo.call("bash", "-c", SHELL, "bash", model, round_, **environment)) == printed


def test_the_environment_changes_no_chain(repo: Repo) -> None:
    """By which of these the stages were chosen, or the image of an export."""
    for environment in ({"EVAL_SET": "gpqa_main"}, {"SCHEMA": "squad"}, {"LORA_RANK": "8"}):
        command = ("scripts/submit.sh", "train", "qwen7b", "1")
        chain = ok(repo.call(*command, LAUNCHER="slurm", DRY_RUN="1", **environment))
        assert chain == ok(repo.call(*command, LAUNCHER="slurm", DRY_RUN="1"))
        assert chain.splitlines()[-1].endswith("results.sbatch qwen7b 1")


@pytest.mark.parametrize("model", TABLE)
@pytest.mark.parametrize("round_", ROUNDS)
def test_openmathreasoning_is_the_published_table(model: str, round_: str) -> None:
    if (model, round_) not in RUNS:
        assert model == "qwen32b", "only 32B had one round"
        return
    r = load(model, round_)["text"]
    base, lr, min_lr, tp, cp, rope = TABLE[model]
    steps, warmup, save, average, filtered, start = ROUNDS[round_]
    assert (r["BASE_MODEL"], float(r["LR"]), float(r["MIN_LR"]), int(r["TP"]), int(r["CP"])) == (
        base,
        lr,
        min_lr,
        tp,
        cp,
    )
    assert (r.get("ROPE_THETA"), r.get("MAX_POSITIONS")) == (("500000.0", "131072") if rope else (None, None))
    assert (int(r["STEPS"]), int(r["WARMUP"]), int(r["SAVE_EVERY"])) == (steps, warmup, save)
    assert [int(s) for s in r["AVERAGE_STEPS"].split(",")] == average
    assert (r["FILTER_SPLITS"], r["START_FROM"]) == (filtered, start)
    assert (r["SEQ_LEN"], r["GLOBAL_BATCH"], r["MICRO_BATCH"]) == ("32768", "1024", "1")
    assert (r["NODES"], r["GPUS_PER_NODE"], r["LR_SCHEDULE"], r["WARMUP_INIT"]) == ("64", "8", "cosine", "0")
    assert re.fullmatch("[0-9a-f]{40}", r["BASE_REVISION"])


BROKEN = {  # name: (file, old, new, words of the message)
    "a blank": ("mini/mini.env", "LR=1e-3", "LR= 1e-3", "not KEY=VALUE"),
    "a quote": ("mini/mini.env", "LR=1e-3", 'LR="1e-3"', "not KEY=VALUE"),
    "a command": ("mini/mini.env", "LR=1e-3", "LR=$(touch pwned)", "not KEY=VALUE"),
    "a trailing comment": ("mini/mini.env", "LR=1e-3", "LR=1e-3  # high", "not KEY=VALUE"),
    "a key twice": ("mini/mini.env", "\nLR=1e-3", "\nLR=1e-3\nLR=1e-4", "set twice"),
    "a key of another layer": ("mini/mini.env", "\nLR=1e-3", "\nLR=1e-3\nSTEPS=5", "already set"),
    "a misspelt key": ("mini/mini.env", "\nLR=1e-3", "\nLR=1e-3\nMIM_LR=1", "did you mean MIN_LR"),
    "a missing key": ("mini/mini.env", "\nMIN_LR=1e-5", "", "MIN_LR is missing"),
    "no number": ("mini/mini.env", "\nLR=1e-3", "\nLR=fast", "LR=fast is not valid"),
    "an unknown engine": ("mini/mini.env", "ENGINE=automodel", "ENGINE=bert", "ENGINE=bert is not valid"),
    "GPUs that do not divide": ("mini/mini.env", "\nTP=1", "\nTP=3", "do not divide by TP*CP*PP=3"),
    "a batch that does not divide": (
        "mini/round1.env",
        "GLOBAL_BATCH=8",
        "GLOBAL_BATCH=6",
        "GLOBAL_BATCH=6 does not divide",
    ),
    "experts that do not divide": ("mini/mini.env", "\nEP=1", "\nEP=2", "do not divide by ETP*EP*PP=2"),
    "a step never saved": ("mini/round1.env", "=40,50,60", "=45,50,60", "45 of AVERAGE_STEPS is never saved"),
    "a step after the end": ("mini/round1.env", "=40,50,60", "=50,60,70", "70 of AVERAGE_STEPS is never saved"),
    "a step twice": ("mini/round1.env", "=40,50,60", "=40,50,50", "must ascend"),
    "a rising rate": ("mini/mini.env", "MIN_LR=1e-5", "MIN_LR=1e-2", "MIN_LR=1e-2 is above"),
    "a long warm-up": ("mini/round1.env", "WARMUP=5", "WARMUP=60", "not shorter than STEPS"),
    "half a RoPE patch": ("mini/mini.env", "ROPE_THETA=500000.0\n", "", "go together"),
    "a long sequence": ("mini/round1.env", "SEQ_LEN=256", "SEQ_LEN=262144", "exceeds MAX_POSITIONS"),
    "RoPE of a plain base": (
        "openmath/qwen14b.env",
        "CP=2",
        "CP=2\nROPE_THETA=500000.0\nMAX_POSITIONS=131072",
        "not a Math base",
    ),
    "a sequence that does not split": (
        "openmath/common.env",
        "SEQ_LEN=32768",
        "SEQ_LEN=32760",
        "does not divide by 2*CP*TP",
    ),
    "context parallel, unpacked": ("openmath/common.env", "PACKING=true", "PACKING=false", "needs PACKING=true"),
    "a bad list of splits": (
        "mini/round1.env",
        "SPLITS=cot,tir,genselect\nF",
        "SPLITS=cot,cot\nF",
        "SPLITS=cot,cot is not valid",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_nonsense_is_refused_before_anything_is_written(what: str, repo: Repo) -> None:
    file, old, new, words = BROKEN[what]
    repo.edit(f"recipes/{file}", old, new)
    model = "qwen14b" if file.startswith("openmath/") else "mini"
    failed(repo.call("scripts/submit.sh", "train", model, "1"), words, status=(2,))
    assert not repo.work.exists()
    assert not (repo.root / "pwned").exists()


@pytest.mark.parametrize(
    "model", ["nope", "../../etc/passwd", "common", "round1", "tiny.round1", "", "-h", "a b", "TINY"]
)
def test_an_unknown_model_lists_the_known_ones(model: str, repo: Repo) -> None:
    for command in (["scripts/submit.sh", "train", model, "1"], ["make", "-s", "train", f"MODEL={model}"]):
        result = repo.call(*command)
        assert result.returncode == 2 and "Traceback" not in result.stderr
        assert "qwen7b" in result.stderr and "error: " in result.stderr
    assert not repo.work.exists()


def test_an_unknown_round_lists_the_known_ones(repo: Repo) -> None:
    failed(repo.call("scripts/submit.sh", "train", "qwen32b", "2"), "known rounds: 1", status=(2,))
    failed(repo.call("scripts/submit.sh", "train", "qwen7b", "3"), "known rounds: 1 2 2exact", status=(2,))
    failed(repo.call("scripts/submit.sh", "train", "tiny", "../1"), "known rounds: 1", status=(2,))


# Changes of qwen7b's first round (None: the key is taken out), and words of the message.
ODD = (
    ({"BACKEND": None}, "BACKEND goes with ENGINE=nemo-rl"),
    ({"MAX_EPOCHS": None}, "MAX_EPOCHS goes with ENGINE=nemo-rl"),
    ({"ENGINE": "nemo2"}, "BACKEND goes with ENGINE=nemo-rl"),
    ({"BACKEND": "fsdp"}, "BACKEND=fsdp cannot pack with CP > 1"),
    ({"BACKEND": "fsdp", "CP": "1", "PP": "2"}, "without PP and EP"),
    ({"BACKEND": "fsdp", "CP": "1", "EP": "2", "ETP": "1"}, "without PP and EP"),
    ({"GLOBAL_BATCH": "1000"}, "GLOBAL_BATCH=1000 does not divide by 64 replicas"),
    ({"ETP": None}, "ETP is missing; add it"),
    ({"ETP": "2"}, "ETP=2 goes with EP > 1; set ETP=1"),
    ({"EP": "3", "ETP": "4"}, "512 GPUs do not divide by ETP*EP*PP=12"),
    ({"VAL_EVERY": "5"}, "VAL_EVERY goes with VAL_DATASET"),
    ({"VAL_DATASET": "my", "VAL_EVERY": "5"}, "VAL_BATCHES goes with VAL_DATASET"),
    ({"CHAT": "llama3"}, "CHAT=llama3 needs rows rendered with that template"),
)


@pytest.mark.parametrize("changes,words", ODD)
def test_keys_that_do_not_go_together_are_refused(changes: dict[str, str | None], words: str) -> None:
    with pytest.raises(Failure) as caught:
        changed("qwen7b", "1", changes)
    assert words in str(caught.value) and "; " in str(caught.value) and caught.value.status == 2


# The same of the tutorials' recipes: (model, round, changes, words).
TUTORIALS = ("reasoning-lora", "reasoning-full", "llama3-sft", "llama3-lora")
ODD_TUTORIALS = (
    ("reasoning-lora", "1", {"LORA_ALPHA": None}, "LORA_ALPHA goes with the other LORA_ keys"),
    ("reasoning-lora", "1", {"LORA_RANK": None}, "goes with the other LORA_ keys"),
    ("reasoning-full", "1", {"LORA_RANK": "8"}, "LORA_ALPHA goes with the other LORA_ keys"),
    ("reasoning-lora", "1", {"LORA_RANK": "0"}, "LORA_RANK=0 is not valid; it must be a number from 1 up"),
    ("reasoning-lora", "1", {"LORA_DROPOUT": "1.5"}, "LORA_DROPOUT=1.5 is not valid; it must be a number from 0 to 1"),
    ("reasoning-lora", "1", {"LORA_TARGETS": "linear_qkv"}, "is not valid; it must be some of q_proj,k_proj"),
    ("reasoning-lora", "1", {"LORA_TARGETS": "q_proj,q_proj"}, "LORA_TARGETS=q_proj,q_proj is not valid"),
    ("reasoning-lora", "1", {"AVERAGE_STEPS": "1900,2000"}, "adapters are not averaged; set AVERAGE_STEPS=2000"),
    (
        "reasoning-lora",
        "1",
        {"ENGINE": "nemo-rl", "BACKEND": "fsdp", "MAX_EPOCHS": "1"},
        "LoRA is not driven here with ENGINE=nemo-rl",
    ),
    (
        "reasoning-full",
        "1",
        {"ENGINE": "nemo-rl", "BACKEND": "fsdp", "MAX_EPOCHS": "1"},
        "SHUFFLE=false is not driven with ENGINE=nemo-rl",
    ),
    ("reasoning-lora", "1", {"SHUFFLE": "no"}, "SHUFFLE=no is not valid; it must be one of true, false"),
    (
        "reasoning-lora",
        "1",
        {"SCHEMA": "alpaca"},
        "SCHEMA=alpaca is not valid; it must be one of openmath, nemotron, dolly, squad",
    ),
    ("reasoning-lora", "1", {"SCHEMA": "openmath"}, "CHAT=llama3 needs rows rendered with that template"),
    ("reasoning-lora", "1", {"VARIANT": None}, "VARIANT goes with every SCHEMA but openmath"),
    ("reasoning-lora", "nemo2", {"VARIANT": None}, "ENGINE=nemo2 needs VARIANT"),
    ("reasoning-lora", "1", {"VARIANT": "fixed"}, "VARIANT=fixed is not valid; it must be one of corrected, published"),
    ("reasoning-lora", "1", {"VARIANT": "published"}, "VARIANT=published is what NeMo 2.0 makes of it, not automodel"),
    ("reasoning-lora", "1", {"CHAT": "none"}, "SCHEMA=nemotron is rendered with the model's template; set CHAT=llama3"),
    ("reasoning-lora", "1", {"CURATE_CHUNK": None}, "CURATE_CHUNK goes with SCHEMA=nemotron"),
    ("reasoning-lora", "1", {"CURATE_CHUNK": "0"}, "CURATE_CHUNK=0 is not valid"),
    ("reasoning-lora", "1", {"CURATE_TAKE": "tail"}, "CURATE_TAKE=tail is not valid; it must be one of random, head"),
    (
        "reasoning-lora",
        "1",
        {"CURATE_FILES": "chat,*"},
        "CURATE_FILES=chat,* is not valid; it must be names with commas",
    ),
    ("reasoning-lora", "1", {"CURATE_MAX_TOKENS": "8193"}, "lets in rows longer than SEQ_LEN=8192, which would be cut"),
    ("reasoning-lora", "nemo2", {"CURATE_MAX_TOKENS": "16384"}, "lets in rows longer than SEQ_LEN=8192"),
    ("reasoning-lora", "1", {"SPLITS": "cot"}, "SPLITS goes with OpenMathReasoning's schema"),
    ("reasoning-lora", "1", {"MICRO_BATCH": "2"}, "needs automodel with MICRO_BATCH=1 and TP=1"),
    ("reasoning-lora", "nemo2", {"PACKING": "true"}, "PACKING=true with ENGINE=nemo2 needs automodel"),
    ("reasoning-full", "1", {"CP": "2"}, "CP=2: nemo-automodel splits sequences with Transformer Engine"),
    ("tiny", "1", {"CP": "2", "GPUS_PER_NODE": "2"}, "which is not driven here and needs a GPU; set CP=1"),
    ("reasoning-full", "1", {"PP": "2"}, "engine automodel is driven here without CP, PP and EP"),
    ("reasoning-full", "nemo2", {"PP": "2"}, "engine nemo2 is driven here without CP, PP and EP"),
    ("reasoning-lora", "1", {"EVAL_SET": None}, "EVAL_ENGINE goes with EVAL_SET; set both or none"),
    ("reasoning-lora", "1", {"EVAL_MAX_TOKENS": None}, "EVAL_SET without EVAL_PROTOCOL needs EVAL_MAX_TOKENS"),
    ("reasoning-lora", "1", {"EVAL_ENGINE": None}, "EVAL_SET needs EVAL_ENGINE"),
    ("reasoning-full", "1", {"EVAL_ENGINE": "vllm"}, "EVAL_TP goes with EVAL_ENGINE=vllm; set both or none"),
    ("reasoning-lora", "1", {"EVAL_SET": "mmlu:4"}, "several samples need EVAL_PROTOCOL; leave out the number"),
    ("reasoning-lora", "1", {"EVAL_MODE": "cot"}, "EVAL_MODE goes with EVAL_SET and SCHEMA=openmath"),
    ("qwen7b", "1", {"EVAL_PROTOCOL": None}, "EVAL_PROTOCOL goes with EVAL_SET and SCHEMA=openmath"),
    ("qwen7b", "1", {"EVAL_TEMPERATURE": "1"}, "EVAL_PROTOCOL has a temperature; leave out EVAL_TEMPERATURE"),
    ("qwen7b", "1", {"EVAL_MODE": "genselect"}, "selects among solutions by cot or tir; name one of them, too"),
    ("qwen7b", "1", {"EVAL_SET": "aime24"}, "genselect compares several samples; write name:4 for four"),
    ("qwen7b", "1", {"EVAL_SET": "aime24:0"}, "EVAL_SET=aime24:0 is not valid; it must be names with commas between"),
    ("qwen7b", "1", {"EVAL_SET": "aime24:4,aime24"}, "is not valid; it must be names with commas between, name:k for"),
    (
        "llama31-8b",
        "1",
        {"EVAL_MODE": "tir"},
        "EVAL_MODE=tir is rendered as ChatML, not CHAT=llama3; set",
    ),
    ("reasoning-lora", "1", {"EVAL_TOP_P": None}, "EVAL_TOP_P goes with EVAL_TEMPERATURE"),
    ("reasoning-lora", "1", {"EVAL_TOP_P": "2"}, "EVAL_TOP_P=2 is not valid; it must be a number from 0 to 1"),
    ("llama3-sft", "1", {"EVAL_TOP_P": "0.9"}, "EVAL_TOP_P goes with EVAL_TEMPERATURE"),
    ("llama3-sft", "1", {"CHAT": "llama3"}, "SCHEMA=dolly has no chat template; set CHAT=none"),
    ("llama3-lora", "published", {"CHAT": "chatml"}, "SCHEMA=squad has no chat template; set CHAT=none"),
    ("llama3-sft", "1", {"CURATE_ROWS": "5"}, "CURATE_ROWS goes with SCHEMA=nemotron"),
    ("llama3-sft", "1", {"GLOBAL_BATCH": "3", "TP": "1"}, "GLOBAL_BATCH=3 does not divide by 2 replicas"),
    ("llama3-sft", "1", {"VAL_DATASET": "my", "VAL_EVERY": "5", "VAL_BATCHES": "1"}, "needs ENGINE=nemo-rl"),
)


@pytest.mark.parametrize("model,round_,changes,words", ODD_TUTORIALS)
def test_keys_of_the_tutorials_that_do_not_go_together(
    model: str, round_: str, changes: dict[str, str | None], words: str
) -> None:
    with pytest.raises(Failure) as caught:
        changed(model, round_, changes)
    assert words in str(caught.value) and "; " in str(caught.value) and caught.value.status == 2


def test_what_only_the_published_variant_may() -> None:
    """Rows that are too long are what its prompts lose their end by."""
    r = load("reasoning-lora", "published")["text"]
    assert (r["CURATE_MAX_TOKENS"], r["SEQ_LEN"], r["CURATE_TAKE"], r["SHUFFLE"]) == ("16384", "8192", "head", "true")


@pytest.mark.parametrize("model", TUTORIALS)
def test_the_recipes_of_the_tutorials_are_as_published(model: str) -> None:
    """NeMo 8cfedd7 tutorials/llm/reasoning/Reasoning-SFT.ipynb:109-444 and tutorials/llm/llama/nemo2-sft-peft/
    nemo2-{sft,peft}.ipynb:57-417, copied by hand a second time; the corrected rounds train no other way."""
    for round_ in ("1", "nemo2", "published"):
        r = load(model, round_)["text"]
        reasoning = model.startswith("reasoning")
        sizes = tuple(int(r[k]) for k in ("SEQ_LEN", "GLOBAL_BATCH", "MICRO_BATCH", "STEPS", "SAVE_EVERY", "WARMUP"))
        assert sizes == ((8192, 256, 1, 2000, 100, 100) if reasoning else (2048, 8, 1, 20, 10, 0))
        optim = tuple(float(r[k]) for k in ("LR", "MIN_LR", "WEIGHT_DECAY", "ADAM_BETA1", "ADAM_BETA2", "CLIP_GRAD"))
        rate = {"llama3-sft": 5e-6}.get(model, 1e-4)
        assert optim == ((rate, 1e-5, 0.001, 0.9, 0.999, 1.0) if reasoning else (rate, rate, 0.01, 0.9, 0.98, 1.0))
        assert r["LR_SCHEDULE"] == ("cosine" if reasoning else "constant")
        base = "meta-llama/Llama-3.1-8B-Instruct" if reasoning else "meta-llama/Meta-Llama-3-8B"
        assert (r["BASE_MODEL"], r["CHAT"]) == (base, "llama3" if reasoning else "none")
        gpus = {"reasoning-lora": (1, 1), "reasoning-full": (8, 1), "llama3-sft": (2, 2), "llama3-lora": (1, 1)}[model]
        assert (int(r["GPUS_PER_NODE"]), int(r["TP"]), r["NODES"]) == (*gpus, "1")
        adapter = {"reasoning-lora": ("64", "128", "0"), "llama3-lora": ("32", "32", "0")}.get(model, (None,) * 3)
        assert tuple(r.get(f"LORA_{k}") for k in ("RANK", "ALPHA", "DROPOUT")) == adapter
        assert r.get("LORA_TARGETS") in (None, ",".join(LINEAR))
        assert r["ACTIVATION_CHECKPOINTING"] == ("true" if model == "reasoning-full" else "false")
        assert r["ENGINE"] == ("automodel" if round_ == "1" else "nemo2")
        assert r["VARIANT"] == ("published" if round_ == "published" else "corrected")
        assert re.fullmatch("[0-9a-f]{40}", r["BASE_REVISION"])


@pytest.mark.parametrize("model", TUTORIALS)
def test_both_engines_of_the_corrected_variant_train_on_the_same_data(model: str) -> None:
    """Round nemo2 reads round 1's: what decides it has to be the same in both, or it would be refused."""
    one, two = (load(model, round_) for round_ in ("1", "nemo2"))
    assert two["DATA_ROUND"] == "1" and "DATA_ROUND" not in one
    assert stage_keys(one, "data") == stage_keys(two, "data")
    folders = {Paths("w", model, round_, r).data for round_, r in (("1", one), ("nemo2", two))}
    published = load(model, "published")
    assert len(folders) == 1 and Paths("w", model, "published", published).data not in folders


def test_a_recipe_is_three_files_of_one_folder() -> None:
    for model, round_, names in (
        ("reasoning-lora", "1", ["reasoning/common", "reasoning/round1", "reasoning/reasoning-lora"]),
        ("reasoning-full", "published", ["reasoning/common", "reasoning/roundpublished", "reasoning/reasoning-full"]),
        ("llama31-8b", "1", ["nemo-skills/common", "nemo-skills/round1", "nemo-skills/llama31-8b"]),
        ("qwen7b", "2", ["openmath/common", "openmath/round2", "openmath/qwen7b"]),
        ("tiny", "1", ["tiny/common", "tiny/round1", "tiny/tiny"]),
    ):
        found = files(model, round_)
        assert [str(path.relative_to(ROOT / "recipes").with_suffix("")) for path in found] == names
    assert not [name for name in models() if "round" in name or name == "common"]


def test_every_file_of_recipes_is_one_of_a_recipe() -> None:
    """No file is left over, and no model names a round that has no file."""
    used = {path for model, round_ in RUNS for path in files(model, round_)}
    assert used == {path for path in (ROOT / "recipes").glob("*/*.env") if path.parent.suffix != ".example"}
    assert not list((ROOT / "recipes").glob("*.env"))


def test_what_two_families_have_from_one_source_is_the_same() -> None:
    """Optimizer and schedule of NeMo-Skills' sft.yaml stand in two folders, and the demos say that theirs are these."""
    keys = ("SEED", "LR_SCHEDULE", "WARMUP_INIT", "WEIGHT_DECAY", "ADAM_BETA1", "ADAM_BETA2", "ADAM_EPS", "CLIP_GRAD")
    models_ = ("qwen7b", "llama31-8b", "tiny", "tiny-reasoning", "tiny-nemo-rl")
    assert len({tuple(load(model, "1")["text"][key] for key in keys) for model in models_}) == 1


def test_a_folder_takes_nothing_from_another(repo: Repo) -> None:
    """A copied recipe without its round is refused: it does not train another family's schedule."""
    show = ("tools/recipe", "llama3-sft", "1")
    repo.edit("recipes/reasoning/common.env", "\nSEED=1234", "\nSEED=1234\nENGINE=automodel")
    words = "ENGINE is already set in another file of the recipe"
    failed(repo.python("tools/recipe", "reasoning-lora", "1"), words, status=(2,))
    (repo.root / "recipes/llama3/round1.env").unlink()
    words = "recipes/llama3/llama3-sft.env: ROUNDS names 1, but there is no recipes/llama3/round1.env; write it"
    failed(repo.python(*show), words, status=(2,))
    (repo.root / "recipes/llama3/round1.env").write_text("")
    (repo.root / "recipes/llama3/common.env").unlink()
    words = "recipes/llama3/llama3-sft.env: there is no recipes/llama3/common.env; write it"
    failed(repo.python(*show), words, status=(2,))
    shutil.copy(repo.root / "recipes/llama3/llama3-sft.env", repo.root / "recipes/tiny/llama3-sft.env")
    words = "recipes/tiny/llama3-sft.env: recipes/llama3/llama3-sft.env is called so, too; rename one"
    failed(repo.python(*show), words, status=(2,))


def test_the_recipes_of_nemo_rl_training_are_as_documented() -> None:
    """NeMo-Skills 8b18f39 docs/pipelines/training.md:48-84, copied by hand a second time."""
    for model, base, ep, etp in (
        ("llama31-8b", "meta-llama/Llama-3.1-8B", "1", "1"),
        ("qwen3-8b", "Qwen/Qwen3-8B", "1", "1"),
        ("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B", "2", "4"),
    ):
        r = load(model, "1")["text"]
        assert (r["BASE_MODEL"], r["NODES"], r["GPUS_PER_NODE"], r["BACKEND"]) == (base, "8", "8", "megatron")
        assert (r["EP"], r["ETP"], r["TP"], r["GLOBAL_BATCH"], r["MICRO_BATCH"]) == (ep, etp, "4", "32", "1")
        assert (r["STEPS"], r["MAX_EPOCHS"], r["AVERAGE_STEPS"], r["PACKING"]) == ("1000", "2", "1000", "true")
        assert r["CHAT"] == ("llama3" if model == "llama31-8b" else "chatml") and r["DATASET_SOURCE"] == "prepared"


def test_a_copy_of_the_template_is_a_recipe(repo: Repo) -> None:
    before = set(models())
    assert "custom" not in before and not any("example" in name for name in before)
    shutil.copytree(repo.root / "recipes/custom.example", repo.root / "recipes/custom")
    shown = ok(repo.call("make", "-s", "show", "MODEL=custom"))
    assert "\nDATASET=mydata\n" in shown
    assert "policy.model_name=" in ok(repo.call("make", "-s", "show", "MODEL=custom", "ENGINE_CONFIG=1"))
    # What the template only mentions is valid, too, where it goes with the rest.
    for name in ("custom.env", "round1.env"):
        path = repo.root / f"recipes/custom/{name}"
        path.write_text(re.sub(r"^#([A-Z]+[A-Z_]*=)", r"\1", path.read_text(), flags=re.MULTILINE))
    repo.edit("recipes/custom/custom.env", "\nEP=1", "\nEP=2")
    shown = {line.split("=")[0] for line in ok(repo.python("tools/recipe", "custom", "1")).splitlines()}
    # Those of a random model, of the data of OpenMathReasoning and the tutorials, and of other engines are not in it.
    other = ("RANDOM_", "FILTER_", "GENERATE_", "EVAL_", "CURATE_", "LORA_")
    others = {"VARIANT", "DATA_ROUND"}
    assert {key for key in KEYS if not key.startswith(other)} - others <= shown


# The chain of every recipe, by hand; where a round is not named it is that of all rounds.
CHAINS = {
    "qwen7b": "cache train convert average eval results",
    "qwen32b": "cache train convert average eval results",
    "llama31-8b": "cache train convert average eval results",  # one step, which is averaged all the same, as published
    "reasoning-lora": "train convert eval results",
    "llama3-sft": "train convert eval results",
    "tiny": "train convert average eval results",
    "tiny-reasoning 1": "train convert average eval results",
    "tiny-reasoning 2": "train convert eval results",
    "tiny-nemo-rl 1": "cache train convert average eval results",
    "tiny-nemo-rl fsdp": "train convert average eval results",
}


@pytest.mark.parametrize("run", CHAINS)
def test_the_stages_of_a_chain(run: str, repo: Repo) -> None:
    """Python's list is what is queued, in this order."""
    model, _, only = run.partition(" ")
    for round_ in [only] if only else rounds(model):
        recipe = load(model, round_)
        assert stages(recipe) == CHAINS[run].split()
        assert ending(recipe) == ("average" if "average" in stages(recipe) else "convert")
        shown = ok(repo.call("make", "-s", "train", f"MODEL={model}", f"ROUND={round_}", "DRY_RUN=1", "LAUNCHER=slurm"))
        queued = [line.split("/sbatch/")[1].split(".sbatch")[0] for line in shown.splitlines()]
        assert list(dict.fromkeys(queued)) == stages(recipe)


def test_a_round_starts_from_what_the_first_ended_with(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of another schema than openmath is the converted step; an adapter alone is no start."""
    monkeypatch.setattr(read, "RECIPES", repo.root / "recipes")
    monkeypatch.setattr(read, "ROOT", repo.root)
    first = load("tiny-reasoning", "1")
    start = Paths("/w", "tiny-reasoning", "2", load("tiny-reasoning", "2")).start
    assert str(start) == "/w/runs/tiny-reasoning/round1/average"
    average = f"AVERAGE_STEPS={first['text']['AVERAGE_STEPS']}"
    repo.edit("recipes/tiny-reasoning/round1.env", average, "AVERAGE_STEPS=450")
    start = Paths("/w", "tiny-reasoning", "2", load("tiny-reasoning", "2")).start
    assert str(start) == "/w/runs/tiny-reasoning/round1/convert/step_450"
    lora = "LORA_RANK=8\nLORA_ALPHA=8\nLORA_DROPOUT=0\nLORA_TARGETS=q_proj\n"
    repo.edit("recipes/tiny-reasoning/round1.env", "AVERAGE_STEPS=450\n", f"AVERAGE_STEPS=450\n{lora}")
    words = "round 2 cannot start from round 1, which ends with an adapter"
    failed(repo.python("tools/recipe", "tiny-reasoning", "2"), words, status=(2,))
    repo.edit("recipes/tiny-reasoning/round1.env", "START_FROM=base", "START_FROM=round1")
    failed(repo.python("tools/recipe", "tiny-reasoning", "1"), "START_FROM=round1 in round 1", status=(2,))


def test_the_documents_have_the_table_of_keys(repo: Repo) -> None:
    table = ok(repo.python("tools/recipe", "--table"))
    assert len(table.splitlines()) == len(KEYS) + 2
    assert (ROOT / "docs/recipes.md").read_text().endswith(f"\n\n{table}"), (
        "print it again with: python3 python/tools/recipe.py --table"
    )
    assert all(len(key.meaning) > 5 and key.meaning[-1] != "." for key in KEYS.values())
    assert len({key.meaning for key in KEYS.values()}) == len(KEYS)


@pytest.mark.parametrize("model,round_", RUNS)
def test_values_have_the_type_that_the_key_states(model: str, round_: str) -> None:
    recipe, hints = load(model, round_), get_type_hints(Recipe)
    assert set(recipe) - {"text"} == set(recipe["text"]) and set(hints) == {"text", *KEYS}
    for key, value in recipe.items():
        hint = hints[key]
        if get_origin(hint) is Literal:
            assert value in get_args(hint)
        elif get_origin(hint) is tuple:
            assert isinstance(value, tuple)
            inner = get_args(hint)[0]
            assert all(type(one) is (get_origin(inner) or inner) for one in value)
        else:
            assert type(value) is (get_origin(hint) or hint), key


def test_what_an_engine_does_is_read_somewhere() -> None:
    code = "".join(path.read_text() for path in sorted((ROOT / "python").rglob("*.py")))
    for field in Engine._fields:
        assert re.search(rf"(engine_of\(\w+\)|engine)\.{field}\b", code), field


def test_every_key_is_used_somewhere() -> None:
    """A key that nothing reads would be a knob that is silently ignored."""
    code = "".join(
        path.read_text()
        for folder in ("python", "scripts", "sbatch")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".sh", ".sbatch")
    )
    declared = (ROOT / "python/sft/recipe/keys.py").read_text()
    for key in KEYS:
        uses = len(re.findall(rf"\b{key}\b", code)) - len(re.findall(rf"^    {key}: Annotated", declared, re.MULTILINE))
        assert uses > 0, key


def test_the_second_rounds_filter_is_upstreams_and_of_one_tokenizer() -> None:
    """NeMo-Skills 8b18f39 docs/releases/openmathreasoning/training.md:163, 175-184."""
    for round_, splits in (("2", "cot,tir,genselect"), ("2exact", "cot")):
        r = load("qwen7b", round_)["text"]
        assert r["FILTER_SPLITS"] == splits
        assert r["FILTER_SOURCES"] == "aops_c5_contests_amp_programs,aops_c6_high_school_olympiads"
        assert (float(r["FILTER_MAX_PASS_RATE"]), int(r["FILTER_MIN_TOKENS"])) == (0.3, 5000)
        # The value stands in qwen14b.env, too: it is the same repository.
        base = load("qwen14b", round_)["text"]
        assert (r["FILTER_TOKENIZER"], r["FILTER_TOKENIZER_REVISION"]) == (base["BASE_MODEL"], base["BASE_REVISION"])
    assert not [k for k in load("qwen7b", "1") if k.startswith("FILTER_") and k != "FILTER_SPLITS"]


def test_filter_keys_go_together(repo: Repo) -> None:
    repo.edit("recipes/openmath/round2.env", "FILTER_MIN_TOKENS=5000\n", "")
    failed(repo.python("tools/recipe", "qwen7b", "2"), "FILTER_MIN_TOKENS goes with FILTER_SPLITS; set both or none")
    repo.edit("recipes/openmath/round1.env", "FILTER_SPLITS=none", "FILTER_SPLITS=none\nFILTER_MIN_TOKENS=5")
    failed(repo.python("tools/recipe", "qwen7b", "1"), "FILTER_MIN_TOKENS goes with FILTER_SPLITS")
