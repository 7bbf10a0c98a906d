"""The curation as the tutorial's stages do it, in one process: every stage renders and tokenizes each row for itself.

    python tests/bench/plain_curation.py SOURCE TARGET TOKENIZER LANG_MODEL MAX_TOKENS MAX_COMPLETION

Rules: NeMo Curator 1e2e427 tutorials/text/llama-nemotron-data-curation (see python/sft/data/nemotron/rules.py); rows
are held in memory and sorted there. Fields that hold no list of messages or no list or string of names are not
expected.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import fasttext
from transformers import AutoTokenizer

Row = dict[str, Any]


def passes(row: Row, on: bool) -> bool:
    """The filters on text."""
    output, used = row["output"], row["used_in_training"]
    if "nano" not in (used if isinstance(used, str) else " ".join(used)).lower():
        return False
    if any(f"<think>{blank}</think>" in output for blank in ("\n\n", "\n", "")):
        return False
    if "<think>" in output and "</think>" not in output:
        return False
    tags = ["<think>" in output, "</think>" in output]
    return all(tags) if on else not any(tags)


def main() -> None:
    source, target, tokenizer_folder, language = map(Path, sys.argv[1:5])
    max_tokens, max_completion = map(int, sys.argv[5:7])
    fasttext.FastText.eprint = lambda *_: None
    model, tokenizer = fasttext.load_model(str(language)), AutoTokenizer.from_pretrained(tokenizer_folder)

    def render(messages: list[dict[str, str]], prompt: bool = False) -> str:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)

    def conversation(row: Row) -> list[dict[str, str]]:
        system = {"role": "system", "content": row["system_prompt"]}
        return [system, *row["input"], {"role": "assistant", "content": row["output"]}]

    def english(row: Row) -> bool:
        return model.predict([render(conversation(row)).replace("\n", " ").strip()])[0][0][0] == "__label__en"

    def short(row: Row) -> bool:
        return 0 < len(tokenizer(render(conversation(row)))["input_ids"]) <= max_tokens

    def short_answer(row: Row) -> bool:
        row["completion_token_count"] = len(tokenizer(render(conversation(row)[-1:]))["input_ids"])
        return 0 < row["completion_token_count"] <= max_completion

    def templated(row: Row) -> Row:
        messages = conversation(row)
        prompt = render(messages[:-1], prompt=True)
        output = render(messages)[len(prompt) :]
        return {"input": prompt, "output": output, "completion_token_count": row["completion_token_count"]}

    sides = []
    for on in (True, False):
        kept = []
        for path in (source / "SFT/chat/chat.jsonl", source / "SFT/math/math_v1.1.jsonl"):
            with open(path, encoding="utf-8") as file:
                for line in file:
                    row = json.loads(line)
                    mine = ("on" in row["reasoning"].lower()) is on and passes(row, on)
                    if mine and english(row) and short(row) and short_answer(row):
                        kept.append(templated(row))
        sides.append(sorted(kept, key=lambda row: row["completion_token_count"]))
    target.mkdir(parents=True)
    with open(target / "training.jsonl", "w", encoding="utf-8") as out:
        for pair in itertools.zip_longest(*sides):
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in pair if row)


if __name__ == "__main__":
    main()
