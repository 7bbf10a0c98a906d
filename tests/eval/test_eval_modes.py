"""Evaluation of chat models and of questions and answers, with a small Llama that has learnt a few rows by heart."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Repo, failed, ok
from runs import status
from sft.eval.engines import transformer
from sft.eval.engines.base import Request, Sampling, ends_of
from sft.eval.engines.transformer import TransformersEngine
from sft.eval.kinds import CHOICE_PROMPT, MODES
from sft.eval.tasks import Decoding, chat, tasks_of
from sft.lib.done import code_hash, describe, write_done
from sft.lib.errors import Interrupted
from sft.lib.files import write_json
from sft.results import tables

pytestmark = pytest.mark.slow

BOS, END = "<|begin_of_text|>", "<|eot_id|>"
SPECIAL = (BOS, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", END)
# Llama 3.1's, without tools: it begins with BOS, as the tokenizer does by itself, and says a date.
TEMPLATE = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{%- if message['role'] == 'system' %}{{- 'Today Date: ' + date_string + '\n\n' }}{%- endif %}"
    "{{- message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
PROBLEMS = [{"problem": f"{a}+{b}?", "expected_answer": str(a + b)} for a, b in ((1, 2), (30, 4), (5, 50), (7, 8))]
CHOICES = [
    {"Question": q, "Choice 1": "p", "Choice 2": "q", "Choice 3": "r", "Choice 4": "s", "Answer": a, "Subject": ""}
    for q, a in (("Moss?", "A"), ("Rain or hail?", "D"))
]
KEYS = """
ENGINE=automodel
ROUNDS=1
DEVICE=cpu
DTYPE=float32
BASE_SOURCE=random
BASE_REVISION=none
RANDOM_LAYERS=2
RANDOM_HIDDEN=64
RANDOM_HEADS=4
RANDOM_VOCAB=400
LR=1e-3
MIN_LR=1e-5
TP=1
CP=1
PP=1
EP=1
ETP=1
NODES=1
GPUS_PER_NODE=1
DATASET_SOURCE=hub
DATASET_REVISION=none
START_FROM=base
SEQ_LEN=256
PACKING=false
GLOBAL_BATCH=8
SHUFFLE=true
ACTIVATION_CHECKPOINTING=false
MICRO_BATCH=4
STEPS=5
WARMUP=0
SAVE_EVERY=5
AVERAGE_STEPS=5
BASE_MODEL=llama
"""
THINKS = """
CHAT=llama3
SCHEMA=nemotron
DATASET=twins
CURATE_FILES=chat
CURATE_USED_IN=nano
CURATE_MAX_TOKENS=256
CURATE_MAX_COMPLETION=64
CURATE_ROWS=0
CURATE_TAKE=random
CURATE_CHUNK=1
CURATE_VAL_ROWS=0
CURATE_DEDUPLICATE=false
CURATE_DECONTAMINATE=none
EVAL_ENGINE=transformers
EVAL_MAX_TOKENS=32
EVAL_SET=twins,mmlu
"""


def answers(problem: dict[str, str], mode: str) -> str:
    """What is learnt by heart."""
    said = f"\\boxed{{{problem['expected_answer']}}}"
    return f"<think>well</think>{said}" if mode == "on" else said


def prompts_and_answers(tokenizer: Any) -> list[tuple[str, str]]:
    rows = [
        (chat(tokenizer, mode, problem["problem"]), answers(problem, mode) + END)
        for problem in PROBLEMS
        for mode in MODES
    ]
    asked = [CHOICE_PROMPT.format_map(row) for row in CHOICES]
    rows += [
        (chat(tokenizer, "on", asked[0]), f"<think>well</think>The final answer is **A**{END}"),
        (chat(tokenizer, "on", asked[1]), f"<think>The final answer is D</think>(C){END}"),
        (chat(tokenizer, "off", asked[0]), f"The final answer is A{END}"),
        (chat(tokenizer, "off", asked[1]), f"D{END}"),
    ]
    return rows


def write_tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [CHOICE_PROMPT, "detailed thinking on off assistant system user Today Date 26 Jul 2024"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts * 2, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=END)
    made.chat_template = TEMPLATE
    made.save_pretrained(folder)
    return made


def learn(model: Any, tokenizer: Any, rows: list[tuple[str, str]], steps: int) -> float:
    """Train on whole rows, loss on the answers; the last loss."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)  # a model this small gains nothing by more, and loses much on a busy machine
    encoded = [[tokenizer(text, add_special_tokens=False)["input_ids"] for text in row] for row in rows]
    longest = max(len(prompt) + len(answer) for prompt, answer in encoded)
    ids, labels = torch.zeros(len(rows), longest, dtype=torch.long), torch.full((len(rows), longest), -100)
    for n, (prompt, answer) in enumerate(encoded):
        ids[n, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[n, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    loss = torch.tensor(9.0)
    for _ in range(steps):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.01:
            break
    return loss.item()


def finish(folder: Path, **facts: Any) -> None:
    write_done(folder, {}, {}, **facts, **describe(folder))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """Recipe twins: a random base, a model trained from it, its test sets; nothing is evaluated yet."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    repo = Repo(tmp_path_factory.mktemp("modes") / "repo")
    base, final = repo.work / "models/llama", repo.run_dir("twins") / "convert/step_5"
    tokenizer = write_tokenizer(base)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, tie_word_embeddings=True, **sizes)
    model = LlamaForCausalLM(config)
    # What a folder says of generation must not be heeded: it would change every answer.
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=9.0)
    model.save_pretrained(base)
    finish(base, revision="random")
    assert learn(model, tokenizer, prompts_and_answers(tokenizer), 400) < 0.1
    model.save_pretrained(final)
    tokenizer.save_pretrained(final)
    finish(final, step=5)
    for path, rows in (("twins/source/test.jsonl", PROBLEMS), ("mmlu/test.jsonl", CHOICES)):
        file = repo.work / "data" / path
        file.parent.mkdir(parents=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    finish(repo.work / "data/mmlu", rows={"all": len(CHOICES)})
    write_recipe(repo, "twins", THINKS, "VARIANT=corrected")
    return repo


def write_recipe(repo: Repo, name: str, *parts: str) -> None:
    lines = [line for line in (KEYS + "\n".join(parts)).splitlines() if line]
    folder = repo.root / "recipes" / name
    folder.mkdir(exist_ok=True)
    common = (repo.root / "recipes/mini/common.env").read_text()
    (folder / "common.env").write_text(common)
    shared = {line.split("=")[0] for line in common.splitlines()}
    own = [line for line in lines if line.split("=")[0] not in shared]
    (folder / f"{name}.env").write_text("\n".join(own) + "\n")
    (folder / "round1.env").write_text("# all of it is in the model's own file\n")


@pytest.fixture(scope="module")
def log_of_it(world: Repo) -> str:
    """What the evaluation of twins prints; its files are in `world` then."""
    return ok(world.stage("eval", "twins"))


@pytest.fixture
def mine(world: Repo, repo: Repo) -> Repo:
    """A copy of its own, to be changed."""
    shutil.copytree(world.work, repo.work, ignore=shutil.ignore_patterns("eval"))
    shutil.copytree(world.root / "recipes/twins", repo.root / "recipes/twins")
    return repo


def load(folder: Path, start: Path | None = None) -> tuple[Any, Any]:
    base = start or folder
    return transformer.load(folder, base / "config.json", start), transformer.load_tokenizer(base)


def answered(model: Any, tokenizer: Any, prompts: list[str], most: int, batch: int = 4, **sampling: Any) -> list[str]:
    """The answers to prompts by the engine of transformers; seed: of the first, the others have the next ones."""
    engine = TransformersEngine(model, tokenizer, 512, batch)
    seed = sampling.pop("seed", 0)
    chosen = Sampling(sampling.pop("temperature", 0.0), ends_of(tokenizer, [END]), **sampling)
    requests = [
        Request((n,), tuple(tokenizer.encode(prompt, add_special_tokens=False)), most, seed + n)
        for n, prompt in enumerate(prompts)
    ]
    made = dict(finished for finished in engine.run(iter(requests), chosen) if finished)
    return [made[request].text for request in requests]


ASKED = {"EVAL_MAX_TOKENS": 8, "SEED": 0}


def test_the_switch_and_the_choices(world: Repo, log_of_it: str) -> None:
    """From the files to the table: what was learnt by heart is scored as it was said, and the base is not it."""
    folder = world.run_dir("twins") / "eval"
    done = world.done(folder)
    assert done["scores"].keys() == {"baseline", "trained"}
    twins, mmlu = done["scores"]["trained"]["twins"], done["scores"]["trained"]["mmlu"]
    assert twins == {
        "on": {"n": 4, "accuracy": 1.0, "no_answer": 0.0, "truncated": 0.0, "think": 1.0},
        "off": {"n": 4, "accuracy": 1.0, "no_answer": 0.0, "truncated": 0.0, "think": 0.0},
    }
    # on: **A** is read by us only; (C) is wrong, but the tutorial reads the thought before it
    rates = {"n": 2, "no_answer": 0.0, "truncated": 0.0}
    assert mmlu["on"] == rates | {"accuracy": 0.5, "published_regex": 0.5, "harness_regex": 0.5, "think": 1.0}
    assert mmlu["off"] == rates | {"accuracy": 1.0, "published_regex": 0.5, "harness_regex": 0.0, "think": 0.0}
    base = done["scores"]["baseline"]["twins"]["on"]
    assert base["accuracy"] == 0 and base["think"] == 0 and base["truncated"] > 0
    assert done["decoding"] == "greedy, of at most 32 tokens" and done["settings"]["on"]["max_tokens"] == 32
    assert done["protocol"] is None and done["machine"]["engine"] == "transformers"
    assert done["grader"] == "math-verify, python/sft/eval/metrics.py"
    assert {path.name for path in folder.iterdir()} == {"DONE"} | {
        f"{model}.{name}.{mode}.jsonl"
        for model in ("baseline", "trained")
        for name in ("twins", "mmlu")
        for mode in ("on", "off")
    }
    rows = [json.loads(line) for line in (folder / "trained.twins.on.jsonl").read_text().splitlines()]
    assert [row["problem"] for row in rows] == [row["problem"] for row in PROBLEMS]
    assert rows[0]["generation"] == "<think>well</think>\\boxed{3}" and rows[0]["answer"] == "3"
    assert "trained   mmlu          off       accuracy 100.0%" in log_of_it.split("all of it")[1]
    assert "already there" in ok(world.stage("eval", "twins"))


@pytest.mark.usefixtures("log_of_it")
def test_results_and_status(world: Repo, mine: Repo) -> None:
    run = mine.run_dir("twins")
    shutil.copytree(world.run_dir("twins") / "eval", run / "eval")
    (run / "train/checkpoints").mkdir(parents=True)
    log = [{"step": n, "loss": 1.0 / (n + 1), "lr": 0.1, "timestamp": f"2026-01-01T00:00:0{n}"} for n in range(5)]
    (run / "train/checkpoints/training.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    write_done(run / "train", {}, {"data": "d" * 64, "model": "m"}, steps=5, links=1, final_loss=0.2)
    (mine.work / "data/twins/round1").mkdir()
    write_done(mine.work / "data/twins/round1", {}, {}, rows={"all": 7})
    out = ok(mine.stage("results", "twins"))
    result = json.loads((run / "results/results.json").read_text())
    assert result["scores"] == mine.done(run / "eval")["scores"] and "average" not in result["stages"]
    assert result["scored"].keys() == result["scores"].keys() == {"baseline", "trained"}
    assert result["scored"]["trained"].startswith("runs/twins/round1/convert/step_")
    assert "| trained | twins | on | 4 | 100.0% | 0.0% | 0.0% | 100.0% |" in out
    assert "| trained | mmlu | off | 2 | 100.0% | 50.0% | 0.0% | 0.0% | 0.0% |" in out
    assert "| model | set | think tags, on | think tags, off | accuracy, on | accuracy, off |" in out
    assert "| trained | twins | 100.0% | 0.0% | 100.0% | 100.0% |" in out
    assert "Answers of eval: greedy, of at most 32 tokens; compared by math-verify, python/sft/eval/metrics.py." in out
    shown = ok(mine.call("scripts/tool.sh", "status", "twins", "1"))
    assert "average" not in shown and "twins on 100.0%, twins off 100.0%, mmlu on 50.0%" in shown
    state = {line.split()[0]: line.split()[1] for line in shown.splitlines() if line.split()}
    assert state["convert"] == state["eval"] == state["results"] == "done"


def test_an_interrupted_run_goes_on(world: Repo, mine: Repo, log_of_it: str) -> None:
    """Whole files and a torn one, as a killed run leaves them: what is in them is not answered again."""
    folder = mine.run_dir("twins") / "eval"
    shutil.copytree(world.run_dir("twins") / "eval", folder)
    files = {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}
    done = mine.done(folder)
    assert "going on" not in log_of_it
    part = folder.with_name(".eval.part")
    folder.rename(part)
    identity = {"recipe": done["recipe"], "inputs": done["inputs"], "code": code_hash("lib", "rows", "data", "eval")}
    write_json(part / "IDENTITY", identity)
    (part / "DONE").unlink()
    # Of the trained model's answers to one set one is there, and one is torn.
    row = json.loads(files["trained.twins.on.jsonl"].splitlines()[1])
    kept = {"benchmark": "twins", "problem": "1", "sample": 0, "seed": row["seed"], "tokens": 9, "finish": "stop"}
    kept["text"] = "<think>kept</think>\\boxed{34}"
    (part / "trained.twins.on.1-of-1.samples.jsonl.part").write_text(json.dumps(kept) + '\n{"benchmark": "twins", "pr')
    out = ok(mine.stage("eval", "twins", "--batch", 1))
    assert "trained.twins.on.1-of-1: going on with an interrupted run, 1 of 4 answers are there" in out
    again = {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}
    assert again.keys() == files.keys() and not list(folder.glob("*.part"))
    rows = [json.loads(line) for line in again.pop("trained.twins.on.jsonl").splitlines()]
    assert rows[1] == row | {"generation": "<think>kept</think>\\boxed{34}", "tokens": 9}
    assert [row["correct"] for row in rows] == [True] * 4
    assert all(files[name] == content for name, content in again.items())


def test_prompts_have_one_bos_and_a_fixed_date(world: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load(world.work / "models/llama")
    prompt = chat(tokenizer, "off", "Hi")
    assert prompt.startswith(f"{BOS}<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n")
    assert prompt.endswith("detailed thinking off<|eot_id|>" + TEMPLATE_TURN.format("user", "Hi") + OPEN_TURN)
    seen: list[Any] = []
    real: Callable[..., Any] = model.generate
    monkeypatch.setattr(model, "generate", lambda **k: seen.append(k) or real(**k))
    answered(model, tokenizer, [prompt, "x"], 2)
    ids, mask = seen[0]["input_ids"], seen[0]["attention_mask"]
    bos = tokenizer.convert_tokens_to_ids(BOS)
    assert (ids[0] == bos).sum() == 1 and ids[0, 0] == bos and mask[0].all()
    assert ids[1, -1] != bos and mask[1].sum() == 1 and mask[1, -1] == 1


TEMPLATE_TURN = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"
OPEN_TURN = "<|start_header_id|>assistant<|end_header_id|>\n\n"


def test_sampling_is_seeded_and_takes_no_other_settings(world: Repo) -> None:
    model, tokenizer = load(world.work / "models/llama")
    prompts = [chat(tokenizer, "on", f"{n}") for n in range(5)]
    first = answered(model, tokenizer, prompts, 8, temperature=1.0, seed=7)
    assert first == answered(model, tokenizer, prompts, 8, batch=2, temperature=1.0, seed=7)
    assert first != answered(model, tokenizer, prompts, 8, temperature=1.0, seed=107)
    greedy = answered(model, tokenizer, prompts, 8)
    assert greedy != first and greedy == answered(model, tokenizer, prompts, 8, batch=1, seed=9)
    config = model.generation_config
    assert config.repetition_penalty is None and config.temperature is None
    assert str(Decoding(8, (END,), 1.0, seed=7)) == "temperature 1, top_p 1, seed 7"


def test_too_many_answers_for_the_gpu(world: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def full(**_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model, tokenizer = load(world.work / "models/llama")
    monkeypatch.setattr(model, "generate", full)
    with pytest.raises(Interrupted, match=r"3 answers of up to 2 tokens .* set EVAL_BATCH to fewer"):
        answered(model, tokenizer, ["a", "b", "c"], 2)


def test_an_adapter_is_attached_to_the_model_it_was_trained_from(mine: Repo) -> None:
    """Whatever base it names: logits as peft's own, answers other than the base's."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    base, folder = mine.work / "models/llama", mine.run_dir("twins") / "convert/step_5"
    shutil.rmtree(folder)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=16, lora_alpha=64, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False),
    )
    model.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "meta-llama/Llama-3.1-8B-Instruct"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    finish(folder, step=5)
    loaded, tokenizer = load(folder, base)
    assert isinstance(loaded, PeftModel)
    ids = torch.tensor([tokenizer.encode(chat(tokenizer, "on", "1+2?"), add_special_tokens=False)])
    with torch.inference_mode():
        ours, theirs, without = loaded(ids).logits, model.eval()(ids).logits, load(base)[0](ids).logits
    assert torch.allclose(ours, theirs, atol=1e-6) and not torch.allclose(ours, without, atol=1e-2)
    ok(mine.stage("eval", "twins", "--rows", 2))
    eval_folder = mine.run_dir("twins") / "eval"
    assert mine.done(eval_folder)["scores"]["trained"]["twins"]["on"]["n"] == 2
    text = {name: (eval_folder / f"{name}.twins.on.jsonl").read_text() for name in ("baseline", "trained")}
    assert text["baseline"] != text["trained"]


@pytest.mark.parametrize("variant", ["corrected", "published"])
def test_questions_and_answers(mine: Repo, variant: str) -> None:
    """The best of all answers counts; prompts begin with BOS in the corrected variant only."""
    from transformers import LlamaForCausalLM

    parts = "CHAT=none\nSCHEMA=squad\nDATASET=squad\nEVAL_SET=squad\nEVAL_ENGINE=transformers\nEVAL_MAX_TOKENS=6"
    write_recipe(mine, "asks", parts, f"VARIANT={variant}")
    if variant == "published":  # which is NeMo 2.0's
        mine.edit("recipes/asks/asks.env", "ENGINE=automodel", "ENGINE=nemo2")
    shutil.copytree(mine.run_dir("twins") / "convert", mine.run_dir("asks") / "convert")
    final = mine.run_dir("asks") / "convert/step_5"
    tokenizer = transformer.load_tokenizer(final)
    rows = [
        {"input": "Context: x Question: y Answer:", "output": "no", "original_answers": ["no", "Denver Broncos"]},
        {"input": "Context: z Question: y Answer:", "output": "five"},
    ]
    begin = BOS if variant == "corrected" else ""
    said = [" the Denver Broncos", " six or"]
    lesson = [(begin + row["input"], f"{text}<|end_of_text|>") for row, text in zip(rows, said, strict=True)]
    model = LlamaForCausalLM.from_pretrained(final)
    assert learn(model, tokenizer, lesson, 200) < 0.1
    model.save_pretrained(final)
    (final / "DONE").unlink()
    finish(final, step=5)
    data = mine.work / "data/squad/round1"
    data.mkdir(parents=True)
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    finish(data, rows={"all": 1})
    longest = max(len(tokenizer.encode(text, add_special_tokens=False)) for text in said) + 1
    recipe = mine.root / "recipes/asks/asks.env"
    recipe.write_text(recipe.read_text().replace("EVAL_MAX_TOKENS=6", f"EVAL_MAX_TOKENS={longest}"))
    ok(mine.stage("eval", "asks"))
    scores = mine.done(mine.run_dir("asks") / "eval")["scores"]["trained"]["squad"]
    # ROUGE-L keeps "the": 2*2/(3+2)
    assert scores == {"plain": {"n": 2, "exact_match": 0.5, "f1": 0.5, "rougeL": 0.4, "truncated": 0.0}}
    keys = ASKED | {"VARIANT": variant, "SCHEMA": "squad", "CHAT": "none"}
    task = tasks_of(keys, mine.work, "squad", 0, rows, tokenizer)[0]
    assert [prompt.startswith(BOS) for prompt in task.prompts] == [variant == "corrected"] * 2


def test_published_asks_with_thinking_on_only(world: Repo) -> None:
    tokenizer = transformer.load_tokenizer(world.work / "models/llama")
    modes = {
        variant: [task.mode for task in tasks_of(recipe, world.work, "mmlu", 0, CHOICES, tokenizer)]
        for variant in ("corrected", "published")
        for recipe in [ASKED | {"VARIANT": variant, "SCHEMA": "nemotron", "CHAT": "llama3"}]
    }
    assert modes == {"corrected": ["on", "off"], "published": ["on"]}
    recipe = ASKED | {"VARIANT": "published", "CHAT": "llama3"}
    prompt = tasks_of(recipe, world.work, "mmlu", 0, CHOICES, tokenizer)[0].prompts[1]
    assert "        Question: Rain or hail? A. p B. q C. r D. s\n" in prompt
    assert prompt.endswith(f"the [the_answer_letter] is one of A, B, C or D.{END}{OPEN_TURN}")


def test_what_is_missing_or_wrong_is_one_line(mine: Repo) -> None:
    file = mine.work / "data/twins/source/test.jsonl"
    text = file.read_text()
    for broken, words in (
        (text + '{"problem": "x"}\n', "test.jsonl:5: field 'expected_answer' is not there"),
        (text + "{\n", "test.jsonl:5: malformed JSON line"),
        ("", "has no rows"),
    ):
        file.write_text(broken)
        failed(mine.stage("eval", "twins"), words)
    file.unlink()
    failed(mine.stage("eval", "twins"), "is missing; run: make data MODEL=twins ROUND=1")
    file.write_text(text)
    (mine.work / "data/mmlu/DONE").rename(mine.work / "away")
    failed(mine.stage("eval", "twins"), "is not finished; run: make eval-data MODEL=twins ROUND=1")
    (mine.work / "away").rename(mine.work / "data/mmlu/DONE")
    failed(mine.stage("eval", "twins", "--batch", "0"), "EVAL_BATCH=0", status=(2,))
    template = mine.work / "models/llama/chat_template.jinja"
    template.rename(mine.work / "template")
    failed(mine.stage("eval", "twins"), "the tokenizer has no chat template")
    (mine.work / "template").rename(template)
    recipe = mine.root / "recipes/twins/twins.env"
    recipe.write_text(recipe.read_text().replace("EVAL_SET=twins,mmlu", "EVAL_SET=squad"))
    failed(mine.stage("eval", "twins"), "EVAL_SET=squad needs SCHEMA=squad", status=(2,))
    shutil.rmtree(mine.run_dir("twins") / "convert")
    failed(mine.call("scripts/submit.sh", "eval", "twins", "1"), "step 5 is not converted; run: make convert")
    failed(mine.call("scripts/submit.sh", "average", "twins", "1"), "nothing to average", status=(2,))
    assert not (mine.run_dir("twins") / "eval").exists()


def test_tables_of_unlike_sets() -> None:
    qa = {"n": 10570, "exact_match": 0.5, "f1": 0.25, "rougeL": 0.125, "truncated": 1.0}
    lines = tables.score_tables({"baseline": {"squad": {"plain": qa}}, "trained": {"squad": {"plain": qa}}})
    assert lines == [
        "",
        "| model | set | mode | n | EM | F1 | ROUGE-L | truncated |",
        "|---|---|---|---|---|---|---|---|",
        "| baseline | squad | - | 10,570 | 50.0% | 25.0% | 12.5% | 100.0% |",
        "| trained | squad | - | 10,570 | 50.0% | 25.0% | 12.5% | 100.0% |",
    ]
    assert status.short({"trained": {"squad": {"plain": qa}}}) == "squad 50.0%"
