"""What a curation needs, made up: rows in the Llama-Nemotron schema, a tokenizer of Llama 3's kind with a template of
Llama 3.1's form, and a small language model.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "python"))

from generate import Text

from sft.rows.tokens import LLAMA3_PIECES

# Renders a conversation as Llama 3.1's template does one without tools.
TEMPLATE = (
    "{{- bos_token }}"
    "{%- if date_string is not defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- set given = messages[0]['role'] == 'system' %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n' }}"
    "{{- 'Today Date: ' + date_string + '\\n\\n' }}"
    "{{- (messages[0]['content'] | trim if given else '') + '<|eot_id|>' }}"
    "{%- for message in (messages[1:] if given else messages) %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
BOS, EOT = "<|begin_of_text|>", "<|eot_id|>"
SPECIAL = [BOS, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", EOT]
MEDIAN = {"on": 1500, "off": 600}  # characters of an answer; the published ones are some times as long
SPOILED = 0.1  # of the rows, for each of the filters in turn

ENGLISH = """the of and to in is that for it was on are as with his they at be this from have or by one had not but
what all were when we there can an your which their said if do will each about how up out them then she many some so
these would other into has more her two like him see time could no make than first been its who now people my made over
did down only way find use may water long little very after words called just where most know number answer equation
solution factor problem triangle therefore thinking detailed question"""
GERMAN = """der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er
hat dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor zur bis mehr
durch man sein wurde sei kann gegen vom schon wenn habe seine ihre dann unter wir soll ich eines jahr zwei diese dieser
wieder keine uhr seiner worden will zwischen immer millionen was sagte die antwort lautet gleichung aufgabe dreieck"""


def make_tokenizer(folder: Path, texts: list[str], vocabulary: int) -> Path:
    """A byte-level BPE that cuts text as Llama 3's does, adds a BOS where special tokens are asked for, and chats."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, normalized=False, special=True) for token in SPECIAL]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet)
    trainer.show_progress = False
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(BOS, tokenizer.token_to_id(BOS))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=ids
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOT}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    return folder


def make_language_model(path: Path, lines: int = 3000) -> Path:
    """A fastText model that tells English from German, of words drawn at random."""
    import fasttext

    pick = random.Random(1)
    corpus = path.with_suffix(".txt")
    with open(corpus, "w", encoding="utf-8") as file:
        for _ in range(lines):
            for label, words in (("en", ENGLISH), ("de", GERMAN)):
                file.write(f"__label__{label} {' '.join(pick.choices(words.split(), k=pick.randint(3, 20)))}\n")
    model = fasttext.train_supervised(
        str(corpus), dim=16, minn=2, maxn=4, bucket=20_000, epoch=4, lr=0.5, thread=1, verbose=0
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save_model(str(path))
    corpus.unlink()
    return path


def row(question: str, output: str, reasoning: str, **changes: Any) -> dict[str, Any]:
    """A row in the published schema."""
    return {
        "input": [{"role": "user", "content": question}],
        "output": output,
        "reasoning": reasoning,
        "system_prompt": f"detailed thinking {reasoning}",
        "category": "math" if reasoning == "on" else "chat",
        "license": "none",
        "generator": "none",
        "used_in_training": ["Nano", "Ultra"],
        "version": "v1",
    } | changes


def generate(folder: Path, rows: int, seed: int = 1) -> list[str]:
    """SFT/math/math_v1.1.jsonl with reasoning on, SFT/chat/chat.jsonl with one off for three on; returns some texts."""
    text, pick, some = Text(seed), random.Random(seed), []

    def prose(mode: str) -> str:
        size, parts = pick.lognormvariate(0, 0.6) * MEDIAN[mode], [pick.choice(text.plain)]
        while sum(map(len, parts)) < size:
            parts.append(pick.choice(text.rare if len(parts) % 4 == 3 else text.plain))
        return "".join(parts).strip()

    def one(mode: str) -> dict[str, Any]:
        question, answer = (t.replace("\\boxed", "\\fbox") for t in (pick.choice(text.plain).strip(), prose(mode)))
        changes: dict[str, Any] = {}
        output = f"<think>\n{answer}\n</think>\n\nSo that is it." if mode == "on" else answer
        if pick.random() < SPOILED:
            kind = pick.randrange(6)
            if kind == 0:
                changes["used_in_training"] = pick.choice((["Ultra"], "Super"))
            elif kind == 1:
                output = f"<think>\n\n</think>{output}"
            elif kind == 2:
                question += " Put it in \\boxed{}."
            elif kind == 3:
                output = output.replace("</think>", "") if mode == "on" else f"<think>{output}"
            elif kind == 4:
                output = answer if mode == "on" else f"{answer} </think>"
            else:
                question = output = " ".join(pick.choices(GERMAN.split(), k=300))
                output = f"<think>{output}</think>" if mode == "on" else output
        return row(question, output, mode, **changes)

    for name, mode, count in (("math/math_v1.1", "on", rows - rows // 4), ("chat/chat", "off", rows // 4)):
        path = folder / "SFT" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            for n in range(count):
                made = one(mode)
                if n < 1000:
                    some += [made["input"][0]["content"], made["output"]]
                file.write(json.dumps(made, ensure_ascii=False) + "\n")
    return some
