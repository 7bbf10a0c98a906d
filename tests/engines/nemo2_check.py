"""What make check-nemo2 runs in a Python that has NeMo 2.0: the recipes' runs, built with the real classes on a CPU.

For each recipe and round: run.Partial(llm.finetune, ...) and the others take every argument of the configuration that
the golden file shows, under its own name (a class's **kwargs swallows any), of the type of its default; and what can be
built without a GPU is built, and holds the recipe's numbers. Then the data set, over rows of a small tokenizer.
"""

import inspect
import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

import fiddle as fdl
import lightning.pytorch as pl
import nemo
import nemo_run as run
import torch
import yaml
from nemo import lightning as nl
from nemo.collections.common.tokenizers import AutoTokenizer
from nemo.lightning import io
from nemo.lightning.ckpt_utils import CONTEXT_PATH, WEIGHTS_PATH
from nemo.lightning.data import add_megatron_sampler
from nemo.lightning.pytorch.callbacks import ModelCheckpoint
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sft.engines.nemo2 import config as nemo2_config
from sft.engines.nemo2 import parts
from sft.engines.nemo2.config import base_folder, render
from sft.engines.nemo2.link import build, resolve
from sft.engines.nemo2.saved import clean
from sft.engines.saved import losses, saved_steps
from sft.recipe.keys import Recipe
from sft.recipe.paths import Paths
from sft.recipe.read import load

ROOT = Path(__file__).parents[2]
RUNS = [
    (m, r) for m in ("reasoning-lora", "reasoning-full", "llama3-sft", "llama3-lora") for r in ("nemo2", "published")
]
# The only argument that is lost in **kwargs is the published one that does nothing.
LOST = {"optimizer_cpu_offload"}
BOS, EOT, EOS = "<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>"
HEADERS = ("<|start_header_id|>", "<|end_header_id|>")


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """The named parameters of a function, or of a class and of those that its **kwargs go on to."""
    if not inspect.isclass(target):
        return dict(inspect.signature(target).parameters)
    found: dict[str, inspect.Parameter] = {}
    for base in target.__mro__:
        own = inspect.signature(base.__init__).parameters if "__init__" in vars(base) else {}
        found = {k: v for k, v in own.items() if v.kind is not v.VAR_KEYWORD and k != "self"} | found
        if own and not any(v.kind is v.VAR_KEYWORD for v in own.values()):
            break
    return found


def check_arguments(where: str, data: Any, built: Any) -> int:
    """Each argument of `data` is one of its target's, of its default's type, and in `built` as it is; their number."""
    if isinstance(data, list):
        assert len(data) == len(built), where
        return sum(check_arguments(f"{where}[{n}]", d, b) for n, (d, b) in enumerate(zip(data, built, strict=True)))
    if not isinstance(data, dict) or "_target_" not in data:
        if not isinstance(data, dict) or not data.keys() & {"_call_", "_object_"}:
            assert data == built, f"{where}: {data!r} became {built!r}"
        return 0
    target, checked = resolve(data["_target_"]), 0
    assert built.__fn_or_cls__ is target, where
    known = parameters(target)
    for key, value in data.items():
        if key == "_target_":
            continue
        swallowed = key not in known
        assert swallowed == (key in LOST), f"{where}: {data['_target_']} has no argument {key}"
        default = None if swallowed else known[key].default
        if isinstance(default, (bool, int, float, str)) and isinstance(value, (bool, int, float, str)):
            kinds = (int, float) if isinstance(default, float) and not isinstance(value, bool) else type(default)
            either = key in ("limit_val_batches", "val_check_interval", "devices")  # a number, or a share or "auto"
            assert either or isinstance(value, kinds), f"{where}.{key}: {value!r}, its default is {default!r}"
        checked += 1 + check_arguments(f"{where}.{key}", value, built.__arguments__[key])
    return checked


def check_run(model: str, round_: str) -> int:
    """One recipe and round; returns how many arguments were checked."""
    recipe = load(model, round_)
    golden = yaml.safe_load((ROOT / "tests" / "golden" / f"{model}.round{round_}.nemo2.yaml").read_text())
    paths = Paths("/WORK", model, round_, recipe)
    base = base_folder(paths, "HASH")
    made = render(recipe, paths, base, paths.train / "checkpoints" / "step=N-last")
    assert golden == json.loads(json.dumps(made)), f"{model} {round_}: not as its golden file"
    made.pop("environment")
    checked = 0
    for name, part in made.items():
        built = build(part)
        assert isinstance(built, run.Partial), name
        checked += check_arguments(f"{model} {round_} {name}", part, built)
        inspect.signature(built.__fn_or_cls__).bind(**built.__arguments__)  # nothing that it needs is missing

    # What needs a GPU to be built is only the accelerator and Transformer Engine's fused RoPE.
    tuned = build(made["finetune"])
    tuned.model.config.apply_rope_fusion = False
    tuned.trainer.accelerator, tuned.trainer.devices, tuned.trainer.num_nodes = "cpu", 1, 1
    trainer, data, optim = fdl.build(tuned.trainer), fdl.build(tuned.data), fdl.build(tuned.optim)
    config, log, resume = fdl.build(tuned.model).config, fdl.build(tuned.log), fdl.build(tuned.resume)
    assert (trainer.max_steps, data.global_batch_size) == (recipe["STEPS"], recipe["GLOBAL_BATCH"])
    assert trainer.strategy.tensor_model_parallel_size == recipe["TP"]
    assert (optim.config.lr, optim.config.adam_beta2) == (recipe["LR"], recipe["ADAM_BETA2"])
    assert (optim.lr_scheduler is None) == (recipe["LR_SCHEDULE"] == "constant")
    assert (config.recompute_granularity == "full") == recipe["ACTIVATION_CHECKPOINTING"]
    assert (config.num_layers, config.hidden_size, config.num_query_groups) == (32, 4096, 8)
    assert log.ckpt._every_n_train_steps == recipe["SAVE_EVERY"] and log.ckpt.save_last
    assert Path(resume.restore_config.path) == base and resume.resume_if_exists
    assert any(isinstance(c, parts.Link) for c in trainer.callbacks)
    assert trainer.loggers == [] and (log.tensorboard, log.wandb) == (None, None), "parts.Link writes the curves"
    if "LORA_RANK" in recipe:
        adapter = fdl.build(tuned.peft)
        assert (adapter.dim, adapter.alpha) == (recipe["LORA_RANK"], recipe["LORA_ALPHA"])
    # The published offload ends among the options of a DDP that Megatron's strategy never makes.
    offloads = recipe["VARIANT"] == "published" and recipe["SCHEMA"] == "nemotron"
    assert ("optimizer_cpu_offload" in trainer.strategy._ddp_kwargs) == offloads
    assert optim.config.optimizer_cpu_offload is False
    return checked


# --- rows ----------------------------------------------------------------------------------------------------------


def tokenizer(folder: Path, end: str) -> AutoTokenizer:
    """A byte-level BPE with Llama 3's special tokens, `end` its EOS, as NeMo loads it from a folder."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = [BOS, EOT, EOS, *HEADERS]
    text = ["Context: Denver Broncos won. Question: Who won? Answer: Denver Broncos", "<think> one two </think> 42"]
    made.train_from_iterator(
        text * 4,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=BOS, eos_token=end)
    fast.save_pretrained(folder)
    return AutoTokenizer(str(folder))


def chat_row(number: int) -> dict[str, str]:
    turn = "".join(
        f"{HEADERS[0]}{role}{HEADERS[1]}\n\n{text}"
        for role, text in (("user", f"What is {number}?{EOT}"), ("assistant", ""))
    )
    return {"input": BOS + turn, "output": f"<think> one </think> {number}{EOT}"}


def module(recipe: Recipe, folder: Path, words: AutoTokenizer, **changes: Any) -> Any:
    """The recipe's data module over the files in `folder`, set up as a trainer does it."""
    part = nemo2_config.data(recipe, Paths("/WORK", "any", "nemo2", recipe))
    part |= {"dataset_root": str(folder), "num_workers": 0, "pin_memory": False} | changes
    made = fdl.build(build(part, partial=False))
    made.tokenizer = words
    made.trainer = pl.Trainer(max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False)
    made.setup("fit")
    return made


def ids_of(words: AutoTokenizer, text: str) -> list[int]:
    return words.tokenizer.encode(text, add_special_tokens=False)


def learned(example: dict[str, Any]) -> list[int]:
    """The ids of a row of the data set that have a loss."""
    return example["input_ids"][example["answer_start_idx"] :]


def check_chat_rows(folder: Path, words: AutoTokenizer) -> None:
    """Published: a stray space and two ends of turn. Corrected: input and output as they stand, one end of turn."""
    row = chat_row(7)
    (folder / "training.jsonl").write_text(
        "".join(json.dumps(chat_row(n)) + "\n" for n in range(6)) + json.dumps(row) + "\n"
    )
    [eot], [bos] = ids_of(words, EOT), ids_of(words, BOS)
    for round_ in ("published", "nemo2"):
        made = module(load("reasoning-lora", round_), folder, words)
        data = made._create_dataset(made.train_path, max_num_samples=None, **made.dataset_kwargs)
        example = data[6]
        assert example["input_ids"].count(bos) == 1 and example["input_ids"][0] == bos
        if round_ == "published":
            assert example["input_ids"] == [*ids_of(words, row["input"]), *ids_of(words, f" {row['output']}"), eot]
            assert learned(example)[-2:] == [eot, eot] and words.ids_to_text(learned(example)).startswith(" <think>")
        else:
            assert example["input_ids"] == ids_of(words, row["input"]) + ids_of(words, row["output"])
            assert learned(example) == ids_of(words, row["output"]) and learned(example).count(eot) == 1
        batch = data.collate_fn([example, data[0]])
        assert ("attention_mask" in batch) == (round_ == "published"), "the dense mask"
        kept = batch["labels"][0][batch["loss_mask"][0] == 1].tolist()
        assert kept == learned(example), "the loss is on other tokens than the answer's"


def check_question_rows(folder: Path, words: AutoTokenizer) -> None:
    """Published: no BOS. Corrected: as rendered.jsonl says it: BOS, the question, a space and the answer, EOS."""
    row = {
        "input": "Context: Denver Broncos won. Question: Who won? Answer:",
        "output": "Denver Broncos",
        "original_answers": [],
    }
    (folder / "training.jsonl").write_text((json.dumps(row) + "\n") * 8)
    answer = ids_of(words, f" {row['output']}{EOS}")
    for round_ in ("published", "nemo2"):
        made = module(load("llama3-lora", round_), folder, words)
        example = made._create_dataset(made.train_path, max_num_samples=None, **made.dataset_kwargs)[0]
        before = ids_of(words, (BOS if round_ == "nemo2" else "") + row["input"])
        assert example["input_ids"] == before + answer and learned(example) == answer


def check_order(folder: Path, words: AutoTokenizer) -> None:
    """What reaches the model: corrected in the file's order, over its end to the next pass; published permuted."""
    rows, batch, steps, done = 20, 8, 4, 2
    (folder / "training.jsonl").write_text("".join(json.dumps(chat_row(100 + n)) + "\n" for n in range(rows)))

    def order(round_: str, consumed: int) -> list[int]:
        recipe = load("reasoning-full", round_)
        # Without NeMo's count of the GPUs that have made the same permutation.
        options = nemo2_config.dataset(recipe) | {"sanity_check_dist_workers": False}
        made = module(recipe, folder, words, global_batch_size=batch, dataset_kwargs=options)
        loader = add_megatron_sampler(
            made.train_dataloader(), micro_batch_size=1, global_batch_size=batch, consumed_samples=consumed,
            dataloader_type="batch", dataloader_mode="train",
        )  # fmt: skip
        texts = [words.tokenizer.decode(ids) for part in loader for ids in part["tokens"]]
        return [int(text.split("What is ")[1].split("?")[0]) - 100 for text in texts]

    wanted = [n % rows for n in range(batch * steps)]
    found = order("nemo2", 0)
    assert found == wanted, found
    assert order("nemo2", done * batch) == wanted[done * batch :], (
        "a later link does not go on where the first one ended"
    )
    published = order("published", 0)
    assert len(published) == len(wanted) and published != wanted, published


# --- a link --------------------------------------------------------------------------------------------------------


class Tiny(pl.LightningModule):
    """One weight that goes to zero, and the loss under NeMo's name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.layer.weight)

    def training_step(self, batch: Any, _: int) -> Any:
        loss = self.layer(batch).square().mean()
        self.log("reduced_train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def check_links(folder: Path, round_: str) -> None:
    """Two links in real Trainers, with the recipe's callback, logger and checkpoints: saves, names, end, resumption.

    The first link ends after LINK_STEPS by NeMo's own means, with a checkpoint; the second goes on from it. NeMo's
    distributed checkpoints are folders of the same names without .ckpt.
    """
    recipe = load("reasoning-lora", round_) | {"SAVE_EVERY": 4, "STEPS": 6}
    paths = Paths(folder, "reasoning-lora", round_, recipe)
    part = nemo2_config.finetune(recipe, paths, paths.base)
    part["log"]["ckpt"] |= {"always_save_context": False, "save_context_on_train_end": False}  # of Megatron's models

    def train(resume: Path | None = None) -> None:
        link = fdl.build(build(part["trainer"]["callbacks"][0], partial=False))
        trainer = pl.Trainer(
            max_steps=6, accelerator="cpu", callbacks=[link], logger=False, enable_progress_bar=False,
            enable_model_summary=False, log_every_n_steps=1,
        )  # fmt: skip
        fdl.build(build(part["log"], partial=False)).setup(trainer, resume_if_exists=True)
        trainer.fit(Tiny(), torch.utils.data.DataLoader(torch.ones(64, 1)), ckpt_path=resume)

    def saved() -> dict[int, float]:
        """Step -> loss in the name of each -last, as far as the project finds them."""
        shown = folder / "as-folders"
        for path in (paths.train / "checkpoints").glob("*.ckpt"):
            (shown / path.stem).mkdir(parents=True, exist_ok=True)
        found = saved_steps("nemo2", shown)
        shutil.rmtree(shown)
        return {step: float(path.name.split("=")[1].split("-")[0]) for step, path in found.items()}

    os.environ["LINK_STEPS"] = "3"
    try:
        train()
        raise AssertionError("LINK_STEPS did not end the link")
    except SystemExit as end:
        assert end.code == 0
    finally:
        del os.environ["LINK_STEPS"]
    rows = losses(paths.train / "checkpoints")
    assert list(rows) == [1, 2, 3] and rows[1]["loss"] == 1.0, rows
    assert saved() == {3: round(rows[3]["loss"], 4)}, saved()
    [last] = (paths.train / "checkpoints").glob("*-last.ckpt")
    train(last)
    rows = losses(paths.train / "checkpoints")
    assert list(rows) == list(range(1, 7)) and all(rows[n + 1]["loss"] < rows[n]["loss"] for n in range(1, 6)), rows
    assert list(saved()) == [6], "the first link's save went when the second had one"
    others = sorted(path.name for path in (paths.train / "checkpoints").glob("*.ckpt") if "-last" not in path.name)
    assert len(others) == (1 if round_ == "published" else 0), others
    curves = [path.read_bytes() for path in sorted((paths.train / "tensorboard").iterdir())]
    assert [file.count(b"train/loss") for file in curves] == [3, 3], "a file for each link, a value for each step"
    links = [json.loads(line) for line in (paths.train / "links.jsonl").read_text().splitlines()]
    assert {(row["from"], row["step"]) for row in links} == {(0, 3), (3, 4), (3, 6)}, links


def check_context(folder: Path) -> None:
    """NeMo writes the trainer into every checkpoint, and makes it again of that to export."""
    strategy = run.Config(nl.MegatronStrategy)
    callbacks = [run.Config(parts.Link, folder=str(folder), steps=6)]
    made = fdl.build(run.Config(nl.Trainer, accelerator="cpu", strategy=strategy, callbacks=callbacks, logger=False))
    made.io_dump(folder / "context", yaml_attrs=[])
    again = [c for c in io.load(folder / "context").callbacks if isinstance(c, parts.Link)]
    assert [(c.folder, c.steps) for c in again] == [(str(folder), 6)]


def check_resume(folder: Path) -> None:
    """Which checkpoint NeMo goes on from, of folders like its distributed ones: with and without our cleaning."""
    folder.mkdir()
    part = {
        "_target_": "nemo.lightning.AutoResume",
        "restore_config": {"_target_": "nemo.lightning.RestoreConfig", "path": str(folder / "base")},
        "resume_if_exists": True,
        "resume_from_directory": str(folder),
    }

    def chosen() -> Path | None:
        return fdl.build(build(part, partial=False))._find_trainer_ckpt_path()

    def save(step: int, changed: float) -> Path:
        path = folder / f"reduced_train_loss=0.5000-step={step}-last"
        (path / "weights").mkdir(parents=True)
        os.utime(path, (changed, changed))
        return path

    assert chosen() is None, "without a checkpoint the base is restored"
    first = save(10, 1e9)
    marker = ModelCheckpoint.format_checkpoint_unfinished_marker_path(first)
    assert marker == first.with_name(f"{first.name}-unfinished")
    marker.touch()
    try:
        chosen()
        raise AssertionError("NeMo goes on from an unfinished checkpoint")
    except ValueError as error:
        assert "unfinished" in str(error)
    clean(folder)
    assert chosen() is None and not marker.exists()
    old, new = save(20, 1e9), save(30, 5e8)
    assert chosen() == old, "NeMo does not go by the time of change any more; see clean"
    clean(folder)
    assert chosen() == new and list(saved_steps("nemo2", folder)) == [20, 30]
    ModelCheckpoint.format_checkpoint_unfinished_marker_path(save(40, 2e9)).touch()
    assert chosen() == new


def check_facts() -> int:
    """The record of what the code reads of NeMo: its text stands in this release's files, too; returns their number."""
    facts = json.loads((ROOT / "tests/engines/nemo2_facts.json").read_text())["facts"]
    for fact in facts:
        file = Path(nemo.__file__).parent.parent / fact["upstream"]
        assert fact["text"] in file.read_text(), f"{fact['upstream']} has no {fact['text']!r} any more: {fact['fact']}"
    assert (WEIGHTS_PATH, CONTEXT_PATH) == ("weights", "context")
    assert "subpath" in inspect.signature(io.load_context).parameters
    return len(facts)


def main() -> None:
    print(f"record: {check_facts()} texts of NeMo's", flush=True)
    for model, round_ in RUNS:
        print(f"{model} {round_}: {check_run(model, round_)} arguments", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folders = {part: Path(name) / part for part in ("tokenizer", "chat", "question", "order", "link")}
        for folder in folders.values():
            folder.mkdir()
        words = tokenizer(folders["tokenizer"], EOT)
        check_chat_rows(folders["chat"], words)
        print("chat rows: published has a stray space and two ends of turn, corrected neither", flush=True)
        check_order(folders["order"], words)
        print("order: published permutes the rows, corrected keeps the file's", flush=True)
        check_question_rows(folders["question"], tokenizer(folders["tokenizer"], EOS))
        print("question rows: published has no BOS, corrected has one, and one EOS", flush=True)
        # NeMo tells all processes of a link's end: here, of one process, and without CUDA's devices.
        torch.distributed.init_process_group("gloo", init_method=f"file://{name}/store", rank=0, world_size=1)
        torch.cuda.current_device = lambda: "cpu"
        check_resume(folders["link"] / "resume")
        print("resume: an unfinished checkpoint stops NeMo until it is removed; of two the later step", flush=True)
        for round_ in ("nemo2", "published"):
            check_links(folders["link"] / round_, round_)
        check_context(folders["link"])
        print("links: ended after LINK_STEPS with a checkpoint, gone on from, every step written down", flush=True)


if __name__ == "__main__":
    sys.exit(main())
