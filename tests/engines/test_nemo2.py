"""Engine nemo2 without NeMo: what it would run, where it is run, what is left of it. make check-nemo2 has the real one.

Its image cannot run on a test machine: a small program stands for its Python, writes down how it was called and leaves
the files that NeMo 2.0 would. What that does not show is that NeMo does so.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import convert
from conftest import ROOT, Repo, failed, missing, ok, parsed
from sft.engines import saved
from sft.engines.nemo2 import link
from sft.engines.nemo2 import saved as nemo2_saved
from sft.engines.nemo2.config import base_folder, predictions, render, to_yaml
from sft.lib.done import recipe_hash, write_done
from sft.lib.errors import Failure
from sft.recipe.keys import stage_keys
from sft.recipe.paths import Paths
from sft.recipe.read import load

MODELS = ("reasoning-lora", "reasoning-full", "llama3-sft", "llama3-lora")
ROUNDS = ("nemo2", "published")
# Called as a Python: for the launcher it is torchrun, for engine.py NeMo's.
# Every letter is the same token.
TOKENIZER = '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "a"}}'
STAND_IN = r"""#!/bin/bash
printf '%s\n' "$*" >>"$CALLS"
[[ -z ${FAIL:-} || $* != *"$FAIL"* ]] || { echo "RuntimeError: no $FAIL today" >&2; exit 3; }
case $* in
    *--import-base*) mkdir -p "$BASE" ;;
    *--export*) mkdir -p "${!#}" ;;
    *distributed.run*engine.py*) mkdir -p "$SAVES" && echo "[12:00:00] train: step 1/20" && echo "[NeMo I] talk" ;;
esac
"""


def golden(model: str, round_: str) -> dict:
    return yaml.safe_load((ROOT / "tests" / "golden" / f"{model}.round{round_}.nemo2.yaml").read_text())


def leaves(data: object, path: str = "") -> dict[str, object]:
    """Dotted path -> value of everything in a configuration."""
    if isinstance(data, dict) and data:
        return {k: v for key, item in data.items() for k, v in leaves(item, f"{path}.{key}".strip(".")).items()}
    if isinstance(data, list) and data:
        return {k: v for n, item in enumerate(data) for k, v in leaves(item, f"{path}.{n}").items()}
    return {path: data}


# --- the configuration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("round_", ROUNDS)
@pytest.mark.parametrize("model", MODELS)
def test_the_configuration_of_a_recipe(model: str, round_: str, repo: Repo) -> None:
    """To the letter as the golden file, which make check-nemo2 builds with the real classes."""
    shown = ok(repo.python("engine", model, round_, "--work", "/WORK", "--render"))
    assert shown == (ROOT / "tests" / "golden" / f"{model}.round{round_}.nemo2.yaml").read_text()


def test_published_is_what_the_notebooks_say() -> None:
    """Reasoning-SFT.ipynb and nemo2-{sft,peft}.ipynb at NeMo 8cfedd7, as the numbers that stand there."""
    made = leaves(golden("reasoning-lora", "published"))
    assert made["finetune.data._target_"] == "nemo.collections.llm.FineTuningDataModule"
    assert {key.split(".")[-1]: made[f"finetune.{key}"] for key in (
        "data.seq_length", "data.global_batch_size", "data.num_workers", "data.seed", "trainer.max_steps",
        "trainer.limit_val_batches", "trainer.strategy.optimizer_cpu_offload", "optim.config.lr",
        "optim.config.weight_decay", "optim.lr_scheduler.warmup_steps", "optim.lr_scheduler.min_lr", "peft.dim",
        "peft.alpha", "log.ckpt.save_top_k", "log.ckpt.every_n_train_steps", "data.dataset_kwargs",
    )} == {
        "seq_length": 8192, "global_batch_size": 256, "num_workers": 8, "seed": 1234, "max_steps": 2000,
        "limit_val_batches": 0, "optimizer_cpu_offload": True, "lr": 1e-4, "weight_decay": 0.001,
        "warmup_steps": 100, "min_lr": 1e-5, "dim": 64, "alpha": 128, "save_top_k": 2, "every_n_train_steps": 100,
        "dataset_kwargs": {},
    }  # fmt: skip
    assert made["export.target"] == "hf-peft" and not any(key.startswith("generate") for key in made)
    full = leaves(golden("reasoning-full", "published"))
    assert full["finetune.trainer.devices"] == 8 and full["export.target"] == "hf"
    assert full["finetune.model.config.recompute_granularity"] == "full" and full["finetune.optim.config.lr"] == 1e-4
    for model, tp, lr in (("llama3-sft", 2, 5e-6), ("llama3-lora", 1, 1e-4)):
        made = leaves(golden(model, "published"))
        assert made["finetune.trainer.strategy.tensor_model_parallel_size"] == made["finetune.trainer.devices"] == tp
        assert (made["finetune.optim.config.lr"], made["finetune.optim.config.adam_beta2"]) == (lr, 0.98)
        assert not any("lr_scheduler" in key for key in made), "the notebook's optimizer has no schedule"
        assert (made["finetune.trainer.val_check_interval"], made["finetune.trainer.limit_val_batches"]) == (2, 2)
        assert made["finetune.trainer.logger"] is False, "a second curve"
        assert made["generate.inference_params.num_tokens_to_generate"] == 20 and made["generate.add_BOS"] is False


def test_corrected_differs_only_in_what_was_wrong() -> None:
    def differ(model: str) -> set[str]:
        a, b = (leaves(golden(model, round_)) for round_ in ROUNDS)
        # Where things lie, and that an import into an empty folder overwrites, is not what is trained.
        places = {k for k, v in (a | b).items() if isinstance(v, str) and "/WORK" in v} | {"import.overwrite"}
        return {k.removeprefix("finetune.") for k in (a.keys() | b.keys()) - places if a.get(k) != b.get(k)}

    kwargs = {
        f"data.dataset_kwargs.{k}" for k in ("prompt_template", "add_bos", "add_eos", "get_attention_mask_from_fusion")
    }
    both = kwargs | {"data.dataset_kwargs", "log.ckpt.save_top_k"}
    for model in ("reasoning-lora", "reasoning-full"):
        validates = {"trainer.limit_val_batches", "trainer.val_check_interval"}
        offload = {"trainer.strategy.optimizer_cpu_offload"}
        assert differ(model) == both | validates | offload | {"data._target_", "data.num_workers"}
    for model in ("llama3-sft", "llama3-lora"):
        assert differ(model) == both | {"trainer.use_distributed_sampler", "generate.add_BOS"}
    row = leaves(golden("reasoning-lora", "nemo2"))
    assert row["finetune.data.dataset_kwargs.prompt_template"] == "{input}{output}"
    assert row["finetune.data.dataset_kwargs.add_eos"] is False and row["finetune.trainer.limit_val_batches"] == 4
    row = leaves(golden("llama3-lora", "nemo2"))
    assert row["finetune.data.dataset_kwargs.prompt_template"] == "{input} {output}"
    assert row["finetune.data.dataset_kwargs.add_bos"] is True and row["finetune.data.dataset_kwargs.add_eos"] is True


@pytest.mark.parametrize("image", ["24.12", "25.04.01"])
def test_the_images_know_every_argument(image: str) -> None:
    """The real classes of make check-nemo2 are newer than the images': the names that the images' sources have."""
    known = json.loads((ROOT / "tests/engines/nemo2_arguments.json").read_text())[image]
    checked = 0

    def check(data: object) -> None:
        nonlocal checked
        if isinstance(data, list):
            for item in data:
                check(item)
        if not isinstance(data, dict):
            return
        target = data.get("_target_")
        names = known.get(
            {"sft.engines.nemo2.parts.OrderedDataModule": "nemo.collections.llm.FineTuningDataModule"}.get(
                target, target
            )
        )
        if target and names is None:  # ours, and Lightning's Trainer
            assert target in ("sft.engines.nemo2.parts.Link", "nemo.lightning.Trainer")
        elif target:
            unknown = data.keys() - {"_target_"} - set(names) - {"optimizer_cpu_offload"}
            assert not unknown, f"{target} of image {image} has no {unknown}"
            checked += len(data) - 1
        for key, item in data.items():
            if key == "dataset_kwargs":
                assert not item.keys() - set(known["dataset_kwargs"])
            check(item)

    for model in MODELS:
        if model.startswith("llama3") or image == "25.04.01":
            for round_ in ROUNDS:
                data = golden(model, round_)
                if image == "24.12" and data["export"]["target"] == "hf-peft":
                    del data["export"]  # made by the other image
                check(data)
    assert checked > 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"BASE_MODEL": "meta-llama/Llama-3.2-1B"}, "not Llama-3.2-1B; take engine automodel"),
        ({"LORA_TARGETS": "q_proj,v_proj"}, "linear_qkv is k_proj, q_proj, v_proj in one"),
        ({"DTYPE": "float32"}, "DTYPE=bfloat16 and PACKING=false; set both"),
        ({"PACKING": "true"}, "DTYPE=bfloat16 and PACKING=false; set both"),
        ({"ENGINE": "automodel"}, "engine is automodel, not nemo2"),
        ({"LR_SCHEDULE": "constant"}, "WARMUP=100 with LR_SCHEDULE=constant"),
        ({"WARMUP_INIT": "1e-6"}, "WARMUP_INIT=1e-6 is not in NeMo 2.0's schedules"),
    ],
)
def test_what_nemo2_cannot_do_is_refused(changes: dict[str, str], message: str) -> None:
    recipe = parsed("reasoning-lora", "nemo2", changes)
    paths = Paths("/WORK", "reasoning-lora", "nemo2", recipe)
    with pytest.raises(Failure, match=message) as failure:
        render(recipe, paths, Path("/base"), Path("/saved"))
    assert failure.value.status == 2


def test_the_yaml_says_what_the_data_say() -> None:
    data = {"a": {"b": [1, "x: y", {"c": None, "d": [True]}], "e": {}, "f": 1e-8}, "g": 5e-6, "h": [], "i": 0.5}
    assert yaml.safe_load(to_yaml(data)) == data


# --- checkpoints ---------------------------------------------------------------------------------------------------


def test_a_checkpoint_counts_when_nemo_would_resume_from_it(tmp_path: Path) -> None:
    """The -last one of a step, without its marker: NeMo resumes from no other."""
    for name in (
        "loss=0.52-step=10-last",
        "loss=0.52-step=10",
        "loss=0.4-step=200-last",
        "loss=0.3-step=300-last",
        "step=7-lasting",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "loss=0.3-step=300-last-unfinished").touch()
    (tmp_path / "loss=0.2-step=400-last").touch()  # no folder
    assert saved.saved_steps("nemo2", tmp_path) == {
        10: tmp_path / "loss=0.52-step=10-last",
        200: tmp_path / "loss=0.4-step=200-last",
    }
    assert saved.saved_steps("nemo2", tmp_path / "none") == {}


def test_a_killed_link_leaves_nothing_that_stops_the_next(tmp_path: Path) -> None:
    """NeMo refuses a run whose only -last is unfinished, for ever; of two it takes the one that was changed last."""
    first = tmp_path / "loss=0.52-step=10-last"
    first.mkdir()
    (first / "weights").mkdir()
    marker = tmp_path / f"{first.name}-unfinished"
    marker.touch()
    (tmp_path / "loss=0.9-step=5-last-unfinished").touch()  # killed before the folder was made
    nemo2_saved.clean(tmp_path)
    assert list(tmp_path.iterdir()) == []
    for step, changed in ((20, 1e9), (30, 5e8)):
        folder = tmp_path / f"loss=0.4-step={step}-last"
        folder.mkdir()
        os.utime(folder, (changed, changed))
    (tmp_path / "training.jsonl").touch()
    nemo2_saved.clean(tmp_path)
    newest, other = (tmp_path / f"loss=0.4-step={step}-last" for step in (30, 20))
    assert newest.stat().st_mtime > other.stat().st_mtime == 1e9 and (tmp_path / "training.jsonl").is_file()
    nemo2_saved.clean(tmp_path / "none")


def test_a_link_cleans_before_it_trains(ready: Repo) -> None:
    folder = ready.work / "runs/llama3-lora/roundpublished/train/checkpoints/loss=0.5-step=2-last"
    folder.mkdir(parents=True)
    folder.with_name(f"{folder.name}-unfinished").touch()
    assert "removed loss=0.5-step=2-last, which a killed link left" in ok(engine(ready, "engine_train"))
    assert not list(folder.parent.glob("*step=2-*"))


def facts() -> list[dict]:
    return json.loads((ROOT / "tests/engines/nemo2_facts.json").read_text())["facts"]


def test_what_is_read_of_nemo_is_on_record() -> None:
    """Each literal that the code reads or writes of NeMo's stands in the file named, with both releases' lines."""
    assert len(facts()) == len({(f["fact"]) for f in facts()}) == 26
    for fact in facts():
        assert fact["literal"] in (ROOT / fact["ours"]).read_text(), fact
        assert fact["2.1.0"] > 0 and fact["2.3.1"] > 0 and fact["checked"], fact
        assert fact["upstream"].startswith("nemo/") and fact["text"], fact
    ours = "".join((ROOT / f"python/sft/engines/nemo2/{name}.py").read_text() for name in ("config", "link", "parts"))
    named = {f["literal"] for f in facts()}
    for name in ("training.jsonl", "validation.jsonl", "adapter_model.safetensors", "reduced_train_loss", "hf://"):
        assert name in ours and any(name in literal for literal in named), name


# --- a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(repo: Repo, tmp_path: Path) -> Repo:
    """llama3-lora's data and model as far as a link looks at them, and a stand-in for the image's Python."""
    recipe = load("llama3-lora", "published")
    paths = Paths(repo.work, "llama3-lora", "published", recipe)
    paths.data.mkdir(parents=True)
    for name in ("training", "validation", "test", "rendered"):
        rows = [json.dumps({"input": f"Question {n}", "output": "yes"}) + "\n" for n in range(120)]
        (paths.data / f"{name}.jsonl").write_text("".join(rows))
    files = {path.name: str(path.stat().st_size) for path in paths.data.iterdir()}
    sizes = {name: int(size) for name, size in files.items()}
    write_done(paths.data, stage_keys(recipe, "data"), {}, rows={"all": 120}, outputs=files, bytes=sizes)
    paths.base.mkdir(parents=True)
    (paths.base / "config.json").write_text("{}")
    (paths.base / "tokenizer.json").write_text(TOKENIZER)
    write_done(
        paths.base,
        {},
        {},
        outputs={"config.json": "0", "tokenizer.json": "1"},
        bytes={"config.json": 2, "tokenizer.json": len(TOKENIZER)},
    )
    python = tmp_path / "nemo-python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    repo.env |= {
        "NEMO2_PYTHON": str(python),
        "CALLS": str(tmp_path / "calls"),
        "BASE": str(base_folder(paths, recipe_hash({"config.json": "0", "tokenizer.json": "1"}))),
        "SAVES": str(paths.train / "checkpoints" / "reduced_train_loss=0.5-step=20-last"),
    }
    return repo


def calls(repo: Repo) -> list[str]:
    """How the stand-in was called since the last time, with placeholders for folders."""
    file = Path(repo.env["CALLS"])
    text = file.read_text() if file.exists() else ""
    file.write_text("")
    return text.replace(str(repo.work), "/WORK").replace(str(repo.root), "/CODE").splitlines()


def engine(repo: Repo, script: str, **env: object) -> subprocess.CompletedProcess[str]:
    shell = f"""
    . scripts/lib.sh
    open_stage train llama3-lora published
    RUN=$WORK/runs/llama3-lora/roundpublished
    . scripts/engines/nemo2.sh
    {script}
    """
    return repo.call("bash", "-c", shell, **env)


def test_a_link_converts_the_base_once_and_trains(ready: Repo) -> None:
    shown = ok(engine(ready, "engine_train"))
    tail = "llama3-lora published --work /WORK"
    train = f"-m torch.distributed.run --nproc-per-node 1 --max-restarts 0 --standalone /CODE/python/engine.py {tail}"
    assert calls(ready) == [f"/CODE/python/engine.py {tail} --import-base", train]
    assert "train: step 1/20" in shown and "talk" not in shown, "NeMo's own talk belongs in the log"
    [log] = (ready.work / "runs/llama3-lora/roundpublished/train/logs").iterdir()
    assert "[NeMo I] talk" in log.read_text()
    ok(engine(ready, "engine_train"))
    assert calls(ready) == [train], "converted twice"


# Stands for docker, srun and scontrol: what docker and srun are called with is what this test is about.
LAUNCHER = """#!/bin/bash
case ${0##*/} in
    scontrol) echo node-a ;;
    *)
        printf '%s ' "${0##*/}" "$@" >>"$CALLS"
        echo >>"$CALLS"
        ;;
esac
"""


@pytest.mark.parametrize("runtime", ["docker", "pyxis"])
def test_the_commands_of_a_link(runtime: str, ready: Repo, tmp_path: Path) -> None:
    """Conversion and training, in one container each: as tests/golden/nemo2.<runtime>.txt has them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("docker", "srun", "scontrol"):
        (folder / name).write_text(LAUNCHER)
        (folder / name).chmod(0o755)
    env = {"CONTAINER_RUNTIME": runtime, "CONTAINER_IMAGE": "IMAGE", "PATH": f"{folder}:{ready.env['PATH']}"}
    if runtime == "pyxis":
        env |= {
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_JOB_NODELIST": "node-a",
            "SLURM_CPUS_ON_NODE": "16",
        }
    # Only what the engine itself sets is handed on, whatever the machine exports.
    own = ("HOME", "VENV", "WORK", "OMP_NUM_THREADS", "CALLS", "BASE", "SAVES")
    ready.env = {name: ready.env[name] for name in own if name in ready.env}
    ok(engine(ready, "engine_train", USER="me", LINK_END="99", **env))
    shown = "\n".join(line.rstrip() for line in calls(ready)) + "\n"
    shown = shown.replace(f"--user {os.getuid()}:{os.getgid()}", "--user UID:GID")
    assert shown == (ROOT / "tests" / "golden" / f"nemo2.{runtime}.txt").read_text()


def test_a_conversion_that_fails_ends_the_link(ready: Repo) -> None:
    result = engine(ready, "engine_train || exit", FAIL="--import-base")
    assert "error: the base model could not be converted for NeMo 2.0 (status 3); see above" in result.stderr
    assert result.returncode == 1 and len(calls(ready)) == 1


def test_without_an_image_or_a_python_with_nemo_nothing_runs(ready: Repo) -> None:
    failed(engine(ready, "engine_container", NEMO2_PYTHON=""), "only in NVIDIA's image; set CONTAINER_RUNTIME")


def test_each_recipe_runs_in_the_image_of_its_tutorial(ready: Repo) -> None:
    """24.12 for the Llama 3 notebooks; but it cannot export an adapter."""
    script = 'container() { echo "image $1"; }; CONTAINER_RUNTIME=docker; {}'

    def image(do: str) -> str:
        return ok(engine(ready, script.replace("{}", do)))

    assert image("engine_container") == "image nemo2-llama3\n"
    assert image("SCHEMA=nemotron; engine_container") == "image nemo2\n"
    export = 'run_inside() { :; }; engine_convert 20 "$WORK/x"'
    assert image(export) == "image nemo2\n" and image(f"LORA_RANK=; {export}") == "image nemo2-llama3\n"
    script = ". scripts/lib.sh && . scripts/runtime.sh && container_base nemo2 && container_base nemo2-llama3"
    assert ok(ready.call("bash", "-c", script)) == "nvcr.io/nvidia/nemo:25.04.01\nnvcr.io/nvidia/nemo:24.12\n"


def test_export_and_generate_are_one_process_each(ready: Repo) -> None:
    ok(engine(ready, 'engine_convert 20 "$RUN/convert/.export-20"; engine_generate'))
    tail = "/CODE/python/engine.py llama3-lora published --work /WORK"
    folder = "/WORK/runs/llama3-lora/roundpublished/convert/.export-20"
    assert calls(ready) == [
        f"{tail} --export 20 --target {folder}",
        f"-m torch.distributed.run --standalone --nproc-per-node 1 {tail} --generate",
    ]
    assert "status 3" in engine(ready, 'engine_convert 20 "$RUN/x"', FAIL="--export").stderr


def test_a_link_is_held_against_its_data_and_its_saved_steps(ready: Repo) -> None:
    """What engine.py itself says before it needs NeMo, in one line each."""
    args = ("llama3-lora", "published", "--work", ready.work)
    failed(
        ready.python("engine", *args, "--export", "20", "--target", "x"),
        "step 20 is not saved (saved: none); run: make train",
    )
    Path(ready.env["SAVES"]).mkdir(parents=True)
    failed(ready.python("engine", *args, "--export", "20"), "--export STEP and --target DIR go together", status=(2,))
    failed(ready.python("engine", *args), "the base model is not converted")
    Path(ready.env["BASE"]).mkdir(parents=True)
    failed(ready.python("engine", *args), "nemo.collections.llm.finetune is not in this Python", "in the image")
    data = ready.work / "data/squad/roundpublished"
    (data / "validation.jsonl").unlink()
    failed(ready.python("engine", *args), "validation.jsonl is missing")
    assert ok(ready.python("train", *args, "--base")).split("\n")[1] == ready.env["BASE"]


def test_a_finished_run_says_so_from_its_records(ready: Repo) -> None:
    """What the callback writes is what status, results and DONE read."""
    args = ("llama3-lora", "published", "--work", ready.work)
    train = ready.work / "runs/llama3-lora/roundpublished/train"
    assert ok(ready.python("train", *args, "--check")) == "0\n"
    Path(ready.env["SAVES"]).mkdir(parents=True)
    rows = [{"step": n, "loss": 2 - n / 20, "lr": 1e-4} for n in range(20)]
    (train / "checkpoints/training.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (train / "links.jsonl").write_text(
        json.dumps({"link": 1, "from": 0, "step": 20, "seconds": 5.0, "peak_memory_bytes": 9}) + "\n"
    )
    assert ok(ready.python("train", *args, "--check")) == "20\n"
    done = ready.done(train)
    assert (done["steps"], done["links"], done["unlogged"], done["final_loss"]) == (20, 1, 0, 2 - 19 / 20)


# --- what an export is made into -----------------------------------------------------------------------------------


def test_an_adapter_names_its_base_and_has_its_tokenizer(ready: Repo, tmp_path: Path) -> None:
    recipe = load("llama3-lora", "published")
    paths = Paths(ready.work, "llama3-lora", "published", recipe)
    with pytest.raises(Failure, match="left no adapter"):
        link.finish_export(recipe, paths, tmp_path)
    (tmp_path / "adapter_model.safetensors").touch()
    (tmp_path / "adapter_config.json").write_text('{"r": 32, "base_model_name_or_path": "checkpoints/x-last"}')
    link.finish_export(recipe, paths, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config == {"r": 32, "base_model_name_or_path": "meta-llama/Meta-Llama-3-8B"}
    assert (tmp_path / "tokenizer.json").read_text() == TOKENIZER and not (tmp_path / "config.json").exists()


def test_all_weights_have_the_base_models_configuration(ready: Repo, tmp_path: Path) -> None:
    without = dict.fromkeys(("LORA_RANK", "LORA_ALPHA", "LORA_DROPOUT", "LORA_TARGETS"))
    recipe = parsed("llama3-lora", "published", without)
    paths = Paths(ready.work, "llama3-lora", "published", recipe)
    with pytest.raises(Failure, match="left no safetensors"):
        link.finish_export(recipe, paths, tmp_path)
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text('{"from": "megatron"}')
    link.finish_export(recipe, paths, tmp_path)
    assert (tmp_path / "config.json").read_text() == "{}" and (tmp_path / "tokenizer.json").exists()


def test_a_step_is_converted_from_what_the_engine_exported() -> None:
    recipe = load("llama3-sft", "nemo2")
    assert convert.export_of(recipe, Path("saved"), Path("made")) == Path("made")
    with pytest.raises(Failure, match="is a Megatron checkpoint; run: make convert"):
        convert.export_of(recipe, Path("saved"), None)


def test_the_published_lora_answers_a_hundred_rows(ready: Repo) -> None:
    recipe = load("llama3-lora", "published")
    paths = Paths(ready.work, "llama3-lora", "published", recipe)
    for variant, rows in (("published", 100), ("corrected", 120)):
        link.test_rows(recipe | {"VARIANT": variant}, paths)
        assert len(predictions(paths).with_name("test.jsonl").read_text().splitlines()) == rows


@pytest.mark.slow
def test_the_real_classes_take_the_configurations() -> None:
    """make check-nemo2: every run of the four recipes, and the data set over a few rows, with NeMo's own code."""
    env = os.environ | {"VENV": sys.prefix}
    result = subprocess.run([ROOT / "scripts/check-nemo2.sh"], env=env, capture_output=True, text=True, timeout=1800)
    if "pip could not install" in result.stderr:
        missing(result.stderr.strip())
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert result.stdout.count(" arguments\n") == 8
    for part in ("record: 26 ", "resume: an unfinished checkpoint stops NeMo until it is removed", "links: ended"):
        assert part in result.stdout
