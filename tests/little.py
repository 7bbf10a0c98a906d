"""A little Llama with a tokenizer and a chat template in the shape of Llama 3's, and rows rendered with it."""

import json
import random
from pathlib import Path
from typing import Any

from conftest import Repo
from sft.lib.done import describe, write_done

BOS, END_OF_TEXT, END_OF_TURN = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
SPECIAL = [BOS, END_OF_TEXT, "<|start_header_id|>", "<|end_header_id|>", END_OF_TURN]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
RECIPE = {
    "ROUNDS": "1", "ENGINE": "automodel", "DEVICE": "cpu", "DTYPE": "float32", "BASE_MODEL": "acme/Little-Llama",
    "BASE_SOURCE": "hub", "BASE_REVISION": "none", "CHAT": "llama3", "LR": "3e-3", "MIN_LR": "3e-4", "TP": "1",
    "CP": "1", "PP": "1", "EP": "1", "ETP": "1", "NODES": "1", "GPUS_PER_NODE": "1", "SEED": "7",
    "LR_SCHEDULE": "constant", "WARMUP": "0", "WARMUP_INIT": "0", "WEIGHT_DECAY": "0.01", "ADAM_BETA1": "0.9",
    "ADAM_BETA2": "0.98", "ADAM_EPS": "1e-8", "CLIP_GRAD": "1.0", "DATASET": "little",
    "DATASET_SOURCE": "hub", "DATASET_REVISION": "none",
    "SCHEMA": "nemotron", "VARIANT": "corrected", "CURATE_FILES": "chat", "CURATE_USED_IN": "nano",
    "CURATE_MAX_TOKENS": "96", "CURATE_MAX_COMPLETION": "96", "CURATE_ROWS": "0", "CURATE_TAKE": "random",
    "CURATE_CHUNK": "1", "CURATE_VAL_ROWS": "0", "CURATE_DEDUPLICATE": "false", "CURATE_DECONTAMINATE": "none",
    "SHUFFLE": "false", "START_FROM": "base", "SEQ_LEN": "200", "PACKING": "false", "GLOBAL_BATCH": "6",
    "MICRO_BATCH": "1", "STEPS": "9", "SAVE_EVERY": "4", "AVERAGE_STEPS": "9", "ACTIVATION_CHECKPOINTING": "false",
}  # fmt: skip
LORA = {
    "LORA_RANK": 4, "LORA_ALPHA": 8, "LORA_DROPOUT": 0,
    "LORA_TARGETS": "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
}  # fmt: skip


def write_recipe(repo: Repo, name: str, **changes: object) -> str:
    """A recipe of the little Llama, with some keys changed; returns its name."""
    lines = [f"{key}={value}" for key, value in (RECIPE | changes).items()]
    folder = repo.root / "recipes" / name
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.env").write_text("\n".join(lines) + "\n")
    for layer in ("common", "round1"):
        (folder / f"{layer}.env").write_text("")
    return name


def conversations(count: int) -> list[list[dict[str, str]]]:
    draw = random.Random(1)
    found = []
    for i in range(count):
        terms = [draw.randrange(100) for _ in range(draw.randrange(2, 9))]
        thinking = i % 2 == 0
        steps = f"<think>{' '.join(str(sum(terms[: n + 1])) for n in range(len(terms)))}</think>" if thinking else ""
        found.append([
            {"role": "system", "content": f"detailed thinking {'on' if thinking else 'off'}"},
            {"role": "user", "content": "add " + " ".join(map(str, terms))},
            {"role": "assistant", "content": f"{steps}{sum(terms)}"},
        ])  # fmt: skip
    return found


def tokenizer(texts: list[str]) -> Any:
    """Byte-level BPE that, as Llama 3's, puts a BOS before all that it encodes unless told not to."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    options = {"special_tokens": SPECIAL, "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    inner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=320, show_progress=False, **options))
    inner.post_processor = processors.TemplateProcessing(f"{BOS} $A", special_tokens=[(BOS, inner.token_to_id(BOS))])
    found = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=BOS, eos_token=END_OF_TURN, clean_up_tokenization_spaces=False
    )
    found.chat_template = TEMPLATE
    return found


def write_model(folder: Path, texts: list[str], tied: bool = False) -> None:
    """A random Llama of two layers, grouped-query attention, with Llama 3.1's list of stops."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    ours = tokenizer(texts)
    ours.save_pretrained(folder)
    ids = {name: ours.convert_tokens_to_ids(name) for name in SPECIAL}
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(ours), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rope_theta=500000.0, tie_word_embeddings=tied,
        bos_token_id=ids[BOS], eos_token_id=[ids[END_OF_TEXT], ids[END_OF_TURN]], dtype="float32",
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=ids[BOS], eos_token_id=config.eos_token_id, do_sample=False)
    model.save_pretrained(folder)
    write_done(folder, {}, {}, revision="none", **describe(folder))


def write_data(folder: Path, ours: Any, rows: list[list[dict[str, str]]]) -> None:
    """training.jsonl of conversations, in the tutorial's form, and DONE."""
    folder.mkdir(parents=True)
    with open(folder / "training.jsonl", "w") as file:
        for messages in rows:
            prompt = ours.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
            whole = ours.apply_chat_template(messages, tokenize=False)
            assert whole.startswith(prompt)
            file.write(json.dumps({"input": prompt, "output": whole[len(prompt) :]}) + "\n")
    write_done(folder, {}, {}, rows={"all": len(rows)}, **describe(folder))


def little(repo: Repo, rows: int = 40) -> Repo:
    """Write the model and `rows` rows of data in a repository's WORK."""
    from transformers import AutoTokenizer

    talks = conversations(rows)
    texts = [m["content"] for talk in talks for m in talk] + ["system user assistant detailed thinking on off"]
    write_model(repo.work / "models/Little-Llama", texts)
    write_data(
        repo.work / "data/little/round1", AutoTokenizer.from_pretrained(repo.work / "models/Little-Llama"), talks
    )
    return repo
