"""A recipe is written once: make, bash and Python read the same, and nonsense is refused before it costs anything."""

import re
import shutil

import pytest

import recipe
from conftest import ROOT, Repo, failed, ok
from lib import Failure

RUNS = [(m, r) for m in recipe.models() for r in recipe.read_file(ROOT / f"recipes/{m}.env")["ROUNDS"].split(",")]

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


@pytest.mark.parametrize("model,round_", RUNS)
def test_make_bash_and_python_read_the_same(model: str, round_: str, repo: Repo) -> None:
    views = {
        "python": ok(repo.python("recipe", model, round_)),
        "bash": ok(repo.call("bash", "-c", f". scripts/lib.sh; show_recipe {model} {round_}")),
        "make": ok(repo.call("make", "-s", "show-make", f"MODEL={model}", f"ROUND={round_}")),
    }
    assert len(views["python"].splitlines()) > 30
    assert views["bash"] == views["python"]
    assert views["make"] == views["python"]


def test_the_environment_does_not_leak_in(repo: Repo) -> None:
    for command in (
        ["make", "-s", "show", "MODEL=qwen7b"],
        ["make", "-s", "show-make", "MODEL=qwen7b"],
        ["bash", "-c", ". scripts/lib.sh; show_recipe qwen7b 1"],
    ):
        assert "\nLR=2e-4\n" in ok(repo.call(*command, LR="9", SEED="7"))


@pytest.mark.parametrize("model", TABLE)
@pytest.mark.parametrize("round_", ROUNDS)
def test_openmathreasoning_is_the_published_table(model: str, round_: str) -> None:
    if (model, round_) not in RUNS:
        assert model == "qwen32b", "only 32B had one round"
        return
    r = recipe.load(model, round_)
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
    "a blank": ("mini.env", "LR=1e-3", "LR= 1e-3", "not KEY=VALUE"),
    "a quote": ("mini.env", "LR=1e-3", 'LR="1e-3"', "not KEY=VALUE"),
    "a command": ("mini.env", "LR=1e-3", "LR=$(touch pwned)", "not KEY=VALUE"),
    "a trailing comment": ("mini.env", "LR=1e-3", "LR=1e-3  # high", "not KEY=VALUE"),
    "a key twice": ("mini.env", "\nLR=1e-3", "\nLR=1e-3\nLR=1e-4", "set twice"),
    "a key of another layer": ("mini.env", "\nLR=1e-3", "\nLR=1e-3\nSTEPS=5", "already set"),
    "a misspelt key": ("mini.env", "\nLR=1e-3", "\nLR=1e-3\nMIM_LR=1", "did you mean MIN_LR"),
    "a missing key": ("mini.env", "\nMIN_LR=1e-5", "", "MIN_LR is missing"),
    "no number": ("mini.env", "\nLR=1e-3", "\nLR=fast", "LR=fast is not valid"),
    "an unknown engine": ("mini.env", "ENGINE=automodel", "ENGINE=bert", "ENGINE=bert is not valid"),
    "GPUs that do not divide": ("mini.env", "\nTP=1", "\nTP=3", "do not divide by TP*CP*PP=3"),
    "a batch that does not divide": (
        "mini.round1.env",
        "GLOBAL_BATCH=8",
        "GLOBAL_BATCH=6",
        "GLOBAL_BATCH=6 does not divide",
    ),
    "experts that do not divide": ("mini.env", "\nEP=1", "\nEP=2\nETP=1", "do not divide by ETP*EP*PP=2"),
    "a step never saved": ("mini.round1.env", "=40,50,60", "=45,50,60", "45 of AVERAGE_STEPS is never saved"),
    "a step after the end": ("mini.round1.env", "=40,50,60", "=50,60,70", "70 of AVERAGE_STEPS is never saved"),
    "a step twice": ("mini.round1.env", "=40,50,60", "=40,50,50", "must ascend"),
    "a rising rate": ("mini.env", "MIN_LR=1e-5", "MIN_LR=1e-2", "MIN_LR=1e-2 is above"),
    "a long warm-up": ("mini.round1.env", "WARMUP=5", "WARMUP=60", "not shorter than STEPS"),
    "half a RoPE patch": ("mini.env", "ROPE_THETA=500000.0\n", "", "go together"),
    "a long sequence": ("mini.round1.env", "SEQ_LEN=256", "SEQ_LEN=262144", "exceeds MAX_POSITIONS"),
    "RoPE of a plain base": (
        "qwen14b.env",
        "CP=2",
        "CP=2\nROPE_THETA=500000.0\nMAX_POSITIONS=131072",
        "not a Math base",
    ),
    "a sequence that does not split": ("round1.env", "SEQ_LEN=32768", "SEQ_LEN=32760", "does not divide by 2*CP*TP"),
    "context parallel, unpacked": ("round1.env", "PACKING=true", "PACKING=false", "needs PACKING=true"),
    "a bad list of splits": (
        "mini.round1.env",
        "SPLITS=cot,tir,genselect\nF",
        "SPLITS=cot,cot\nF",
        "SPLITS=cot,cot is not valid",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_nonsense_is_refused_before_anything_is_written(what: str, repo: Repo) -> None:
    file, old, new, words = BROKEN[what]
    repo.edit(f"recipes/{file}", old, new)
    model = "qwen14b" if file in ("qwen14b.env", "round1.env") else "mini"
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
    ({"EP": "2"}, "ETP goes with EP > 1"),
    ({"ETP": "2"}, "ETP goes with EP > 1"),
    ({"EP": "3", "ETP": "4"}, "512 GPUs do not divide by ETP*EP*PP=12"),
    ({"VAL_EVERY": "5"}, "VAL_EVERY goes with VAL_DATASET"),
    ({"VAL_DATASET": "my", "VAL_EVERY": "5"}, "VAL_BATCHES goes with VAL_DATASET"),
    ({"CHAT": "llama3"}, "CHAT=llama3 needs rows rendered with that template"),
)


@pytest.mark.parametrize("changes,words", ODD)
def test_keys_that_do_not_go_together_are_refused(changes: dict[str, str | None], words: str) -> None:
    changed = recipe.load("qwen7b", "1") | changes
    with pytest.raises(Failure) as caught:
        recipe.check("qwen7b", {key: value for key, value in changed.items() if value is not None})
    assert words in str(caught.value) and "; " in str(caught.value) and caught.value.status == 2


def test_the_recipes_of_nemo_rl_training_are_as_documented() -> None:
    """NeMo-Skills 8b18f39 docs/pipelines/training.md:48-84, copied by hand a second time."""
    for model, base, ep, etp in (
        ("llama31-8b", "meta-llama/Llama-3.1-8B", "1", None),
        ("qwen3-8b", "Qwen/Qwen3-8B", "1", None),
        ("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B", "2", "4"),
    ):
        r = recipe.load(model, "1")
        assert (r["BASE_MODEL"], r["NODES"], r["GPUS_PER_NODE"], r["BACKEND"]) == (base, "8", "8", "megatron")
        assert (r["EP"], r.get("ETP"), r["TP"], r["GLOBAL_BATCH"], r["MICRO_BATCH"]) == (ep, etp, "4", "32", "1")
        assert (r["STEPS"], r["MAX_EPOCHS"], r["AVERAGE_STEPS"], r["PACKING"]) == ("1000", "2", "1000", "true")
        assert r["CHAT"] == ("llama3" if model == "llama31-8b" else "chatml") and r["DATASET_SOURCE"] == "prepared"


def test_a_copy_of_the_template_is_a_recipe(repo: Repo) -> None:
    before = set(recipe.models())
    assert "custom" not in before and not any("example" in name for name in before)
    for name in ("custom.env", "custom.round1.env"):
        shutil.copy(repo.root / f"recipes/{name}.example", repo.root / f"recipes/{name}")
    shown = ok(repo.call("make", "-s", "show", "MODEL=custom"))
    assert "\nDATASET=mydata\n" in shown
    assert "policy.model_name=" in ok(repo.call("make", "-s", "show", "MODEL=custom", "ENGINE_CONFIG=1"))
    # What the template only mentions is valid, too, where it goes with the rest.
    for name in ("custom.env", "custom.round1.env"):
        path = repo.root / f"recipes/{name}"
        path.write_text(re.sub(r"^#([A-Z]+[A-Z_]*=)", r"\1", path.read_text(), flags=re.MULTILINE))
    repo.edit("recipes/custom.env", "\nEP=1", "\nEP=2")
    shown = {line.split("=")[0] for line in ok(repo.python("recipe", "custom", "1")).splitlines()}
    assert {key for key in recipe.KEYS if not key.startswith(("RANDOM_", "FILTER_", "GENERATE_", "EVAL_"))} <= shown


def test_every_key_is_used_somewhere() -> None:
    """A key that nothing reads would be a knob that is silently ignored."""
    code = "".join(
        path.read_text()
        for folder in ("python", "scripts", "scripts/engines", "sbatch")
        for path in sorted((ROOT / folder).iterdir())
        if path.suffix in (".py", ".sh", ".sbatch")
    )
    declared = (ROOT / "python/recipe.py").read_text()
    for key in recipe.KEYS:
        uses = len(re.findall(rf"\b{key}\b", code)) - len(re.findall(rf'^    "{key}": \(', declared, re.MULTILINE))
        assert uses > 0, key


def test_the_second_rounds_filter_is_upstreams_and_of_one_tokenizer() -> None:
    """NeMo-Skills 8b18f39 docs/releases/openmathreasoning/training.md:163, 175-184."""
    for round_, splits in (("2", "cot,tir,genselect"), ("2exact", "cot")):
        r = recipe.load("qwen7b", round_)
        assert r["FILTER_SPLITS"] == splits
        assert r["FILTER_SOURCES"] == "aops_c5_contests_amp_programs,aops_c6_high_school_olympiads"
        assert (float(r["FILTER_MAX_PASS_RATE"]), int(r["FILTER_MIN_TOKENS"])) == (0.3, 5000)
        # The value stands in qwen14b.env, too: it is the same repository.
        base = recipe.load("qwen14b", round_)
        assert (r["FILTER_TOKENIZER"], r["FILTER_TOKENIZER_REVISION"]) == (base["BASE_MODEL"], base["BASE_REVISION"])
    assert not [k for k in recipe.load("qwen7b", "1") if k.startswith("FILTER_") and k != "FILTER_SPLITS"]


def test_filter_keys_go_together(repo: Repo) -> None:
    repo.edit("recipes/round2.env", "FILTER_MIN_TOKENS=5000\n", "")
    failed(repo.python("recipe", "qwen7b", "2"), "FILTER_MIN_TOKENS goes with FILTER_SPLITS; set both or none")
    repo.edit("recipes/round1.env", "FILTER_SPLITS=none", "FILTER_SPLITS=none\nFILTER_MIN_TOKENS=5")
    failed(repo.python("recipe", "qwen7b", "1"), "FILTER_MIN_TOKENS goes with FILTER_SPLITS")
