"""What make inspect shows of rows, and what it says of broken ones."""

import json
import os
import pty
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from conftest import Repo, failed, ok
from little import BOS, little, write_recipe
from little import END_OF_TURN as TURN_END
from little import RECIPE as LITTLE
from sft.engines.automodel import row as automodel_row
from sft.engines.automodel.packed import PackedSteps
from sft.engines.nemo_rl import row as nemo_rl_row
from sft.inspect.verdicts import difference, judge_eos, turns
from sft.lib.errors import Failure
from sft.recipe import read
from sft.rows.chat import END_OF_TURN
from sft.rows.dataset import IGNORE, SftDataset
from sft.rows.packing import deal, pack
from tools import inspect_rows

Inspect = Callable[..., tuple[str, str]]
# As NeMo-RL trains the Qwens, on 8 GPUs: 2 replicas, and rows padded to multiples of 8.
NEMO_RL = {"ENGINE": "nemo-rl", "DEVICE": "gpu", "GPUS_PER_NODE": 8, "CP": 2, "TP": 2}
NEMO_RL |= {"BACKEND": "megatron", "ACTIVATION_CHECKPOINTING": "false", "MAX_EPOCHS": 100}
NEMO_RL |= {"PACKING": "true", "MICRO_BATCH": 1}


@pytest.fixture
def inspect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inspect:
    """(output, error) of a call in this process: for each process to import transformers would take 5 s."""

    def call(repo: Repo, *args: object, model: str = "mini") -> tuple[str, str]:
        monkeypatch.setattr(read, "RECIPES", repo.root / "recipes")
        monkeypatch.setattr(read, "ROOT", repo.root)
        monkeypatch.setattr(sys, "argv", ["inspect_rows.py", model, "1", "--work", str(repo.work), *map(str, args)])
        error = ""
        try:
            inspect_rows.main()
        except Failure as failure:
            error = f"{failure.status}: {failure}"
        return capsys.readouterr().out, error

    return call


def data_file(repo: Repo) -> Path:
    return repo.work / "data/mini/round1/all.jsonl"


def rows_of(repo: Repo) -> list[dict[str, str]]:
    return [json.loads(line) for line in data_file(repo).read_text().splitlines()]


def rewrite(repo: Repo, first: dict[str, str]) -> None:
    """Put another first row into the data."""
    lines = data_file(repo).read_text().splitlines()
    data_file(repo).write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")


def change(file: Path, **keys: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def verdict(output: str, subject: str) -> str:
    """The line of a verdict, from its level on."""
    lines = [line.strip() for line in output.splitlines() if re.match(rf"  (ok|WARNING|WRONG) +{subject}: ", line)]
    assert len(lines) == 1, output
    return lines[0]


def shown_rows(output: str) -> list[tuple[str, str, str]]:
    """(header, text, ids) of each row shown, with the marks."""
    found = []
    for block in re.split(r"\n(?=row [\d,]+ of )", output)[1:]:
        text = "\n".join(line.removeprefix("  | ") for line in block.splitlines() if line.startswith("  | "))
        ids = block.partition("\n  ids\n")[2].partition("\n  loss")[0]
        found.append((block.splitlines()[0], text, " ".join(ids.split())))
    return found


def test_what_is_marked_is_what_is_trained_on(prepared: Repo) -> None:
    output = ok(prepared.call("scripts/tool.sh", "inspect", "mini", "1"))
    tokenizer = AutoTokenizer.from_pretrained(prepared.work / "models/mini")
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    dataset = SftDataset(str(data_file(prepared)), 256, END_OF_TURN, tokenizer)
    shown = shown_rows(output)
    assert len(shown) == 3 and "\x1b" not in output
    for i, (header, text, words) in enumerate(shown):
        row, item = rows_of(prepared)[i], dataset[i]
        answer = row["output"].removesuffix("\n")
        # The text: all of the row but the newline after the end of turn; within the brackets, the answer.
        assert re.sub("[⟦⟧⟨⟩]", "", text) == row["input"] + answer
        assert re.sub("[⟨⟩]", "", text[text.index("⟦") + 1 : text.index("⟧")]) == answer
        assert text.count("⟦") == text.count("⟧") == 1 and f"⟨{END_OF_TURN}⟩⟧" in text
        # The ids: those of the dataset, and in brackets the labels.
        ids = [int(word) for word in re.sub("[⟦⟧⟨⟩]", "", words).split()]
        assert ids == [*item["input_ids"], end] and tokenizer.decode(ids) == row["input"] + answer
        labels = [int(word) for word in re.sub("[⟨⟩]", "", words[words.index("⟦") + 1 : words.index("⟧")]).split()]
        assert labels == [label for label in item["labels"] if label != IGNORE]
        size = f"{len(ids)} tokens ({len(ids) - len(labels)} prompt, {len(labels)} answer), {len(labels)} with loss"
        assert size in header and "fits SEQ_LEN=256" in header
        assert f"position ids  0..{len(item['input_ids']) - 1}\n" in output
    levels = re.findall(r"^  (ok|WARNING|WRONG) ", output, re.MULTILINE)
    assert levels == ["ok"] * 6 + ["WARNING"] + ["ok"] * 2  # the base has a system message of its own
    assert "make convert puts" in verdict(output, "EOS") and "no <|endoftext|>" in verdict(output, "BOS")
    assert "theta 500000 with 131,072 positions, as in the recipe" in verdict(output, "RoPE")


def test_a_terminal_gets_colours(prepared: Repo) -> None:
    master, slave = pty.openpty()
    environment = {k: v for k, v in prepared.env.items() if k != "NO_COLOR"} | {"ROW": "2"}
    command = ["scripts/tool.sh", "inspect", "mini", "1"]
    process = subprocess.Popen(
        command, cwd=prepared.root, env=environment, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave
    )
    os.close(slave)
    output = b""
    try:
        while block := os.read(master, 1 << 16):
            output += block
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(master)
    assert process.wait(60) == 0
    text = output.decode().replace("\r\n", "\n")
    answer = rows_of(prepared)[1]["output"].removesuffix(f"{END_OF_TURN}\n")
    green = "".join(f"\x1b[32m{line}\x1b[0m\n" if line else "\n" for line in answer.split("\n")).removesuffix("\n")
    assert "\n".join(f"  | {line}" for line in green.split("\n"))[4:] in text
    assert f"\x1b[32;7m{END_OF_TURN}\x1b[0m" in text and "\x1b[7m<|im_start|>\x1b[0msystem" in text
    assert not set("⟦⟧⟨⟩") & set(text)


def test_no_color_gives_brackets_on_a_terminal(
    prepared: Repo, inspect: Inspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    output, error = inspect(prepared, "--row", 1)
    assert not error and "\x1b" not in output and "⟦" in output


def test_the_padding_is_that_of_the_collater(prepared: Repo, inspect: Inspect) -> None:
    from nemo_automodel.components.datasets.utils import default_collater

    tokenizer = AutoTokenizer.from_pretrained(prepared.work / "models/mini")
    dataset = SftDataset(str(data_file(prepared)), 256, END_OF_TURN, tokenizer)
    output, _ = inspect(prepared, "--row", 3)
    for number, first in enumerate((2, 6), 1):  # MICRO_BATCH=4
        items = [dataset[i] for i in range(first, first + 4)]
        batch = default_collater(items)
        width = batch["input_ids"].shape[1]
        assert f"micro batch {number}: rows {first + 1}..{first + 4}, 4 x {width} tokens" in output
        assert f"position ids 0..{width - 1} in each" in output and "position_ids" not in batch
        share = 1 - float(batch["attention_mask"].float().mean())
        assert f"{share:.1%} padding" in output
        shortest = min(range(4), key=lambda i: len(items[i]["input_ids"]))
        assert batch["input_ids"][shortest, -1] == 0 and batch["labels"][shortest, -1] == IGNORE
    assert f"with input id 0 ({tokenizer.decode([0])!r}), label -100, attention mask 0" in output


# --- broken input ------------------------------------------------------------------------------------------------


def test_an_answer_without_its_end_is_wrong(copy: Repo) -> None:
    row = rows_of(copy)[0]
    rewrite(copy, row | {"output": row["output"].replace(END_OF_TURN, "")})
    result = copy.call("scripts/tool.sh", "inspect", "mini", "1")
    failed(result, "WRONG", "end of turn", status=(1,))
    assert "REFUSED by the trainer" in shown_rows(result.stdout)[0][0] and "⟦" not in shown_rows(result.stdout)[0][1]
    assert verdict(result.stdout, "end of turn").startswith("WRONG    end of turn: row 1: output does not end")
    assert verdict(result.stdout, "template").startswith("WRONG")
    assert len(shown_rows(result.stdout)) == 3, "the others are shown all the same"


def test_two_ends_in_an_answer_are_wrong(copy: Repo, inspect: Inspect) -> None:
    row = rows_of(copy)[0]
    rewrite(copy, row | {"output": f"a{END_OF_TURN}{row['output']}"})
    output, error = inspect(copy)
    assert verdict(output, "end of turn").startswith("WRONG    end of turn: row 1: 2 <|im_end|>") and error[:2] == "1:"


@pytest.mark.parametrize(("times", "level", "words"), [(1, "WRONG", "which neither"), (2, "WRONG", "more than one")])
def test_bos_in_the_text_is_wrong(copy: Repo, inspect: Inspect, times: int, level: str, words: str) -> None:
    row = rows_of(copy)[0]
    rewrite(copy, row | {"input": "<|endoftext|>" * times + row["input"]})
    output, error = inspect(copy)
    line = verdict(output, "BOS")
    assert line.startswith(f"{level} ") and words in line and "row 1" in line and "BOS" in error
    assert verdict(output, "template").startswith("WARNING"), "turns that cannot be told are not compared"


def test_bos_that_the_tokenizer_would_add_is_a_warning(copy: Repo, inspect: Inspect) -> None:
    folder = copy.work / "models/mini"
    id_ = json.loads((folder / "config.json").read_text())["bos_token_id"]
    token = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    change(
        folder / "tokenizer.json",
        post_processor={
            "type": "TemplateProcessing",
            "single": [token, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [id_], "tokens": ["<|endoftext|>"]}},
        },
    )
    change(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", bos_token="<|endoftext|>")
    assert AutoTokenizer.from_pretrained(folder).encode("x")[0] == id_
    output, error = inspect(copy)
    assert not error and verdict(output, "BOS").startswith("WARNING  BOS: rows 1, 2, 3 and 5 more: no <|endoftext|>")
    # A row that has it already would have two of them at a server, but one here: as trained, so no fault.
    rewrite(copy, rows_of(copy)[0] | {"input": "<|endoftext|>" + rows_of(copy)[0]["input"]})
    assert "rows 2, 3, 4 and 4 more" in verdict(inspect(copy)[0], "BOS")


def test_a_row_that_is_too_long_is_masked(copy: Repo, inspect: Inspect) -> None:
    row = rows_of(copy)[0]
    rewrite(copy, row | {"output": "Ones: 1\n" * 99 + row["output"]})
    output, error = inspect(copy)
    header, text, ids = shown_rows(output)[0]
    tokens = int(re.search(r"; (\d+) tokens", header)[1])
    assert not error and f"masked: {tokens - 256} too long for SEQ_LEN=256" in header and ", 0 with loss" in header
    assert "⟦" not in text + ids and "  loss          none\n" in output
    assert "position ids  0..254\n" in output, "the trainer cuts it at SEQ_LEN and shifts"
    line = verdict(output, "length")
    assert line.startswith("WARNING") and f"row (1) has {tokens} tokens" in line and "(1 of 8 read)" in line
    assert len(ids.split()) == 255, "as much of it as the trainer sees"


def test_the_middle_of_a_long_part_is_left_out(copy: Repo, inspect: Inspect) -> None:
    copy.derive("wide", SEQ_LEN=9000)
    row = rows_of(copy)[0]
    rewrite(copy, row | {"output": f"{'日本語🙂 ' * 200}{row['output']}"})
    (header, text, ids), *_ = shown_rows(inspect(copy, model="wide")[0])
    answer = int(re.search(r"(\d+) answer", header.replace(",", ""))[1])
    note = f"… {answer - 180:,} tokens left out …"
    assert note in text and note in ids and "\ufffd" not in text
    assert text.endswith(f"⟨{END_OF_TURN}⟩⟧") and text.count("⟦") == 1, "what is left out carries loss, too"
    (_, text, ids), *_ = shown_rows(inspect(copy, "--full", model="wide")[0])
    assert "left out" not in text + ids and f"⟦{'日本語🙂 ' * 200}" in text


def test_when_all_rows_are_too_long_nothing_is_learned(copy: Repo, inspect: Inspect) -> None:
    copy.derive("short", SEQ_LEN=16)
    output, error = inspect(copy, model="short")
    assert verdict(output, "length").startswith("WRONG    length: all of 8 rows") and "length" in error
    assert verdict(output, "end of turn").startswith("WARNING  end of turn: all of 8 answers are masked")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"max_position_embeddings": 100}, "too few for the 1"),
        ({"rope_theta": 10000.0}, "theta 10000 with 131,072 positions"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "RoPE is scaled already"),
    ],
)
def test_another_rope_than_the_recipe_has_is_wrong(
    copy: Repo, inspect: Inspect, keys: dict[str, Any], words: str
) -> None:
    change(copy.work / "models/mini/config.json", **keys)
    output, error = inspect(copy)
    assert verdict(output, "RoPE").startswith("WRONG") and words in verdict(output, "RoPE") and "RoPE" in error
    assert verdict(output, "files").startswith("WARNING"), "the config was changed after make model"


def test_published_rope_is_held_against_the_rows(copy: Repo, inspect: Inspect) -> None:
    """A recipe that leaves RoPE alone, as that of the 14B."""
    copy.derive("plain")
    for file in copy.root.glob("recipes/plain/*.env"):
        file.write_text(re.sub(r"(ROPE_THETA|MAX_POSITIONS)=.*\n", "", file.read_text()))
    assert "which the recipe leaves alone, cover the" in verdict(inspect(copy, model="plain")[0], "RoPE")
    change(copy.work / "models/mini/config.json", max_position_embeddings=128)
    output, error = inspect(copy, model="plain")
    assert re.search("WRONG .*128 positions .*too few for the 1[89]. of row", verdict(output, "RoPE"))
    assert "RoPE" in error


def test_another_template_than_the_rows_have_is_wrong(copy: Repo, inspect: Inspect) -> None:
    template = copy.work / "models/mini/chat_template.jinja"
    before = template.read_text()
    template.write_text(before.replace("<|im_end|>\n{% endfor %}", "<|im_end|>{% endfor %}"))
    assert template.read_text() != before
    output, error = inspect(copy)
    at = len("<|im_start|>system\n<|im_end|>")
    line = verdict(output, "template")
    assert f"row 1: at character {at} the row has '\\n<|im_start|>user" in line and line.startswith("WRONG")
    assert "template '<|im_start|>user" in line and "template" in error
    # One that differs in the answer only.
    answer = "<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>"
    template.write_text(before.replace("<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>", answer))
    row = rows_of(copy)[0]
    rewrite(copy, row | {"output": f" {row['output']}"})
    line = verdict(inspect(copy)[0], "template")
    assert f"at character {len(row['input'])} the row has ' " in line
    template.write_text("{{ raise_exception('no') }}")
    assert "the template fails on its turns" in verdict(inspect(copy)[0], "template")
    template.unlink()
    assert verdict(inspect(copy)[0], "template").startswith("WARNING  template: the tokenizer has no chat template")


def test_a_default_system_message_that_was_not_trained_is_a_warning(copy: Repo, inspect: Inspect) -> None:
    line = verdict(inspect(copy)[0], "system message")
    assert line.startswith("WARNING") and "every row has ''" in line and "'You are a helpful assistant.'" in line
    assert "make convert gives the result a template" in line
    template = copy.work / "models/mini/chat_template.jinja"
    template.write_text(template.read_text().replace("You are a helpful assistant.", ""))
    assert verdict(inspect(copy)[0], "system message").startswith("ok ")
    first = rows_of(copy)[0]
    rewrite(copy, first | {"input": first["input"].replace("system\n", "system\nBe brief.", 1)})
    assert "the rows have 2 different ones" in verdict(inspect(copy)[0], "system message")


def test_eos_is_told_of_all_three(copy: Repo, inspect: Inspect) -> None:
    folder = copy.work / "models/mini"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    config = json.loads((folder / "config.json").read_text())
    level, words = judge_eos(tokenizer, folder, config, END_OF_TURN)
    assert level == "ok" and "<|endoftext|> (0) in config.json, generation_config.json, tokenizer" in words
    assert f"{END_OF_TURN} ({end}), which make convert puts" in words
    change(folder / "generation_config.json", eos_token_id=[0, end])
    level, words = judge_eos(tokenizer, folder, config, END_OF_TURN)
    assert level == "ok" and f"<|endoftext|> (0) and {END_OF_TURN} ({end}) in generation_config.json" in words
    (folder / "generation_config.json").unlink()
    assert "none in generation_config.json" in judge_eos(tokenizer, folder, config, END_OF_TURN)[1]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    tokenizer.eos_token = END_OF_TURN
    _, words = judge_eos(tokenizer, folder, config | {"eos_token_id": end}, END_OF_TURN)
    assert words.endswith("with it the answers end")
    # That of another model, as when a tokenizer was replaced.
    change(folder / "config.json", eos_token_id=151643)
    output, error = inspect(copy)
    assert verdict(output, "EOS").startswith("WRONG    EOS: config.json has 151643") and "EOS" in error


def test_data_changed_after_make_data_is_a_warning(copy: Repo, inspect: Inspect) -> None:
    with open(data_file(copy), "a") as file:
        file.write(json.dumps(rows_of(copy)[0]) + "\n")
    output, error = inspect(copy)
    assert not error and re.search(r"WARNING .*all\.jsonl has [\d,]+ bytes", verdict(output, "files"))


def test_text_cannot_steer_the_terminal(copy: Repo, inspect: Inspect) -> None:
    row = rows_of(copy)[0]
    rewrite(copy, row | {"output": f"\x1b[2J\x07Größe ⟦ 日本語\r{row['output']}"})
    output, _ = inspect(copy, "--row", 1)
    assert "⟦\\x1b[2J\\x07Größe ⟦ 日本語\\x0d" in output and not set("\x1b\x07\r") & set(output)


def test_a_row_that_is_no_row_is_named(copy: Repo, inspect: Inspect) -> None:
    lines = data_file(copy).read_text().splitlines()
    broken = {"{": "Expecting", '{"input": "a"}': "'output' is not there", '{"input": "a", "output": 1}': "not text"}
    for bad, why in broken.items():
        data_file(copy).write_text("\n".join([lines[0], bad, *lines[2:]]) + "\n")
        error = inspect(copy)[1]
        assert error.startswith(f"1: {data_file(copy)}:2: ") and why in error and "; " in error


def test_a_broken_tokenizer_is_named(copy: Repo, inspect: Inspect) -> None:
    (copy.work / "models/mini/tokenizer.json").write_text("{")
    output, error = inspect(copy)
    assert not output and error.startswith(f"1: {copy.work / 'models/mini'}: ") and "; " in error and "\n" not in error


def test_a_call_that_cannot_be_answered(prepared: Repo, repo: Repo, inspect: Inspect) -> None:
    for row in ("0", "x", "-1", "1.5"):
        failed(
            repo.call("scripts/tool.sh", "inspect", "mini", "1", ROW=row),
            f"ROW={row} is not a row's number",
            status=(2,),
        )
    failed(repo.call("scripts/tool.sh", "inspect", "mini"), "usage", status=(2,))
    failed(repo.call("scripts/tool.sh", "inspect", "mini", "1"), "make data MODEL=mini ROUND=1", status=(1,))
    assert not repo.work.exists(), "nothing is written"
    (repo.work / "data").mkdir(parents=True)
    (repo.work / "data/mini").symlink_to(prepared.work / "data/mini")
    failed(repo.stage("tools/inspect_rows"), "make model MODEL=mini ROUND=1", status=(1,))
    for round_, other in (("nemo2", "inspect ROUND=1, the same rows on"), ("published", "inspect round 1 on")):
        refused = repo.call("scripts/tool.sh", "inspect", "llama3-lora", round_)
        failed(refused, "what engine nemo2 makes of a row is not shown here", other, status=(1,))
    total = len(rows_of(prepared))
    output, error = inspect(prepared, "--row", total + 1)
    assert error.startswith(f"2: ROW={total + 1} is beyond the {total} rows") and not output
    output, error = inspect(prepared, "--row", total)
    assert not error and f"row {total} of {total}: " in output and f"batch: rows {total}..{total}, 1 of the 8" in output


def test_a_dry_run_shows_the_command(repo: Repo) -> None:
    output = ok(repo.call("scripts/tool.sh", "inspect", "mini", "1", "--full", DRY_RUN="1", ROW="7"))
    assert output.split()[1:] == [
        str(repo.root / "python/tools/inspect_rows.py"), "mini", "1", "--work", str(repo.work), "--row=7", "--full"
    ]  # fmt: skip
    assert "ROW=n" in ok(repo.call("scripts/tool.sh", "inspect", "--help"))


# --- NeMo-RL -----------------------------------------------------------------------------------------------------


def test_nemo_rl_puts_loss_on_the_newline_too(copy: Repo, inspect: Inspect) -> None:
    copy.derive("rl", **NEMO_RL)
    tokenizer = AutoTokenizer.from_pretrained(copy.work / "models/mini")
    dataset = SftDataset(str(data_file(copy)), 256, END_OF_TURN, tokenizer)
    end, newline = tokenizer.encode(f"{END_OF_TURN}\n", add_special_tokens=False)
    for i, row in enumerate(rows_of(copy)):
        view, other = nemo_rl_row.view(dataset, i), automodel_row.view(dataset, i)
        # All that automodel has, and the newline.
        assert view.ids == [*other.ids, newline] and view.ids[-2] == end
        assert view.loss == [*other.loss, True] and sum(view.loss) == view.answer == other.answer + 1
        assert view.positions == len(view.ids) == other.positions + 2
        assert tokenizer.decode(view.ids[view.split :]) == row["output"] and view.split == view.prompt
    output, error = inspect(copy, model="rl")
    assert not error and shown_rows(output)[0][1].endswith(f"⟨{END_OF_TURN}⟩\n⟧")
    assert f" {end}⟩ {newline}⟧" in shown_rows(output)[0][2].replace("⟨", "")
    assert "as do the blanks after it" in verdict(output, "end of turn")
    # Nothing stops that trainer at an answer without an end.
    row = rows_of(copy)[0]
    rewrite(copy, row | {"output": row["output"].replace(END_OF_TURN, "")})
    line = verdict(inspect(copy, model="rl")[0], "end of turn")
    assert line.startswith("WRONG    end of turn: row 1: the answer ends with ") and "teaches not to stop" in line


def test_nemo_rl_masks_a_row_of_seq_len(prepared: Repo) -> None:
    tokenizer = AutoTokenizer.from_pretrained(prepared.work / "models/mini")
    whole = nemo_rl_row.view(SftDataset(str(data_file(prepared)), 10_000, END_OF_TURN, tokenizer), 0)
    length = len(whole.ids)
    fits = nemo_rl_row.view(SftDataset(str(data_file(prepared)), length + 1, END_OF_TURN, tokenizer), 0)
    assert fits == whole and not fits.over
    for seq_len, kept in ((length, 4), (6, 3)):
        masked = nemo_rl_row.view(SftDataset(str(data_file(prepared)), seq_len, END_OF_TURN, tokenizer), 0)
        assert masked.over == length - seq_len + 1 and (masked.prompt, masked.answer) == (whole.prompt, whole.answer)
        assert masked.ids == whole.ids[:kept] + whole.ids[whole.split : whole.split + kept]
        assert masked.loss == [False] * 2 * kept and masked.split == kept


def numbers(line: str) -> list[int]:
    return [int(n) for n in line.replace(",", "").split()]


def bins_of(output: str) -> list[tuple[list[int], list[int], list[int], list[str]]]:
    """(rows, tokens, boundaries, position ids) of each bin shown."""
    parts = re.findall(
        r"  bin \d+.*\n    rows +(.*)\n    tokens +(.*)\n    boundaries +(.*)\n    position ids +(.*)\n", output
    )
    return [(numbers(a), numbers(b), numbers(c), d.split()) for a, b, c, d in parts]


def test_nemo_rl_packs_a_global_batch(copy: Repo, inspect: Inspect) -> None:
    copy.derive("rl", **NEMO_RL, GLOBAL_BATCH=32)
    output, error = inspect(copy, "--full", model="rl")
    bins = bins_of(output)
    assert not error and "padded with id 0 to a multiple of 2*CP*TP=8" in output
    assert len(bins) % 2 == 0 and " (replica 0): " in output and " (replica 1): " in output
    assert sorted(number for rows, *_ in bins for number in rows) == list(range(1, 33))
    tokenizer = AutoTokenizer.from_pretrained(copy.work / "models/mini")
    dataset = SftDataset(str(data_file(copy)), 256, END_OF_TURN, tokenizer)
    for rows, tokens, boundaries, positions in bins:
        assert tokens == [len(nemo_rl_row.view(dataset, number - 1).ids) for number in rows]
        assert boundaries[0] == 0 and boundaries[-1] <= 256
        sizes = [end - start for start, end in pairwise(boundaries)]
        assert sizes == [-(-n // 8) * 8 for n in tokens]
        assert positions == [f"0..{size - 1}" for size in sizes], "they start again at each row"
    # A part of a batch: the bins are an example, and say so; a masked row keeps its place, as 8 tokens.
    copy.derive("many", **NEMO_RL, GLOBAL_BATCH=96, SEQ_LEN=96)
    output, error = inspect(copy, "--full", model="many")
    assert (
        "batch: rows 1..64, 64 of the 96" in output and "a multiple of 2 bins" in output and "replica 0" not in output
    )
    bins = bins_of(output)
    assert sorted(number for rows, *_ in bins for number in rows) == list(range(1, 65))
    assert sum(count == 8 for _, tokens, *_ in bins for count in tokens) > 8
    assert all(boundaries[-1] <= 96 for _, _, boundaries, _ in bins)
    short, _ = inspect(copy, model="many")
    assert len(bins_of(short)) == 6 and f"… {len(bins) - 6} more bins" in short


def test_automodel_packs_in_order(copy: Repo, inspect: Inspect) -> None:
    """What is shown are the packs that a replica is given of a step."""
    copy.derive("packed", PACKING="true", MICRO_BATCH=1, SHUFFLE="false")
    out, error = inspect(copy, "--full", model="packed")
    assert not error and "which training keeps: step 1" in out and "without padding" in out
    tokenizer = AutoTokenizer.from_pretrained(copy.work / "models/mini")
    steps = PackedSteps(str(data_file(copy)), 256, END_OF_TURN, 8, 1, False, 42, tokenizer)
    packs = steps.batches(0)
    bins = bins_of(out)
    assert 1 < len(packs) < 8 and [number for rows, *_ in bins for number in rows] == list(range(1, 9))
    for (_, tokens, boundaries, _), batch in zip(bins, packs, strict=True):
        starts = [i for i, position in enumerate(batch["position_ids"][0].tolist()) if position == 0]
        assert boundaries == [*starts, batch["input_ids"].shape[1]] and sum(tokens) == boundaries[-1]


def test_nemo_rl_without_packing_pads_to_the_global_batch(copy: Repo, inspect: Inspect) -> None:
    copy.derive("rl", **NEMO_RL | {"PACKING": "false", "CP": 1, "MICRO_BATCH": 2})
    output, _ = inspect(copy, model="rl")
    tokenizer = AutoTokenizer.from_pretrained(copy.work / "models/mini")
    dataset = SftDataset(str(data_file(copy)), 256, END_OF_TURN, tokenizer)
    width = -(-max(len(nemo_rl_row.view(dataset, i).ids) for i in range(8)) // 4) * 4
    assert output.count(f", 2 x {width} tokens, ") == 4 and f"with input id {tokenizer.pad_token_id} " in output


def test_packing_is_that_of_nemo_rl() -> None:
    """Bins that its own packer (7ea279a nemo_rl/data/packing/algorithms.py) made of these lengths."""
    lengths = [60, 55, 40, 35, 30, 20, 18, 12, 10, 9, 8, 5, 5, 5, 3]
    assert pack(lengths, 100) == [[0, 2], [1, 3, 8], [11, 12, 13, 14], [4, 5, 6, 7, 9, 10]]
    assert pack([7, 6, 5, 5, 4, 4, 3, 3, 2, 2, 2, 1, 1], 12) == [[0, 2], [1, 3], [4, 5, 6], [7, 8, 9, 10, 11, 12]]
    assert deal(pack(lengths, 100), 3) == [[0, 2], [1, 3, 8], [11, 12, 13, 14], [4, 5, 6, 7], [10], [9]]
    draw = random.Random(0)
    for _ in range(200):
        lengths = [draw.randint(1, 100) for _ in range(draw.randint(1, 60))]
        bins = deal(pack(lengths, 100), 1)
        assert sorted(i for rows in bins for i in rows) == list(range(len(lengths)))
        assert all(rows and sum(lengths[i] for i in rows) <= 100 for rows in bins)
    for bad in ([101], [0]):
        with pytest.raises(ValueError, match="does not go into a bin"):
            pack(bad, 100)
    with pytest.raises(ValueError, match="2 rows do not fill"):
        deal([[0, 1]], 3)


# --- Llama 3's form ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """The little Llama, and forty rows in the form of the curated ones."""
    return little(Repo(tmp_path_factory.mktemp("llama") / "repo"))


def rewrite_llama(source: Repo, repo: Repo, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    """Copy the little Llama's WORK, with the first row changed."""
    shutil.copytree(source.work, repo.work)
    file = repo.work / "data/little/round1/training.jsonl"
    first, *rest = file.read_text().splitlines(keepends=True)
    file.write_text("".join([json.dumps(change(json.loads(first))) + "\n", *rest]))


def test_llama3_rows_are_right_as_they_are_curated(llama: Repo, inspect: Inspect) -> None:
    write_recipe(llama, "llama")
    output, error = inspect(llama, model="llama")
    bos = AutoTokenizer.from_pretrained(llama.work / "models/Little-Llama").bos_token_id
    assert not error and f"one {BOS} ({bos}) at the start of each of 6 rows" in verdict(output, "BOS")
    assert verdict(output, "end of turn").startswith(f"ok       end of turn: {TURN_END} (")
    assert "6 rows are what the tokenizer's chat template renders" in verdict(output, "template")
    assert output.count(f"⟨{BOS}⟩") == 3 and f"⟦⟨{TURN_END}⟩⟧" not in output
    assert re.search(rf"\| .*⟦.*⟨{re.escape(TURN_END)}⟩⟧$", output, re.MULTILINE), "the answer's end carries loss"
    assert "training.jsonl" in output and "which training keeps: step 1" in output


def test_a_template_with_todays_date_is_compared_on_the_rows_day(
    llama: Repo, repo: Repo, inspect: Inspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import chat_template_utils

    class Clock(chat_template_utils.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Clock":
            return cls(2031, 12, 31)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    head = "<|start_header_id|>system<|end_header_id|>\n\n"
    dates = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    rewrite_llama(llama, repo, lambda row: row)
    file = repo.work / "data/little/round1/training.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [row | {"input": row["input"].replace(head, head + dates, 1)} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = repo.work / "models/Little-Llama/chat_template.jinja"
    says = "{% if loop.first %}" + dates.replace("26 Jul 2024", "{{ strftime_now('%d %b %Y') }}") + "{% endif %}"
    old = "{{ m['content'] | trim }}"
    assert old in template.read_text()
    template.write_text(template.read_text().replace(old, says + old))
    write_recipe(repo, "llama")
    assert "6 rows are what the tokenizer's chat template renders" in verdict(
        inspect(repo, model="llama")[0], "template"
    )


@pytest.mark.parametrize(
    "change,subject,words",
    [
        (lambda row: row | {"input": BOS + row["input"]}, "BOS", "row 1: more than one <|begin_of_text|>"),
        (lambda row: row | {"output": BOS + row["output"]}, "BOS", "row 1: a <|begin_of_text|> (0) that is not at"),
        (lambda row: row | {"output": row["output"] + TURN_END}, "end of turn", "row 1: 2 <|eot_id|> in the answer"),
        (lambda row: row | {"output": row["output"][: -len(TURN_END)]}, "end of turn", "does not end with <|eot_id|>"),
        # The stray blank of NeMo 2.0's "{input} {output}".
        (lambda row: row | {"output": " " + row["output"]}, "template", "the row has ' "),
        # A prompt of which the end was cut off.
        (lambda row: row | {"input": row["input"][:60]}, "template", "the prompt is not Llama 3's turns"),
    ],
)
def test_what_is_wrong_in_llama3_rows(
    change: Callable[[dict[str, str]], dict[str, str]],
    subject: str,
    words: str,
    llama: Repo,
    repo: Repo,
    inspect: Inspect,
) -> None:
    rewrite_llama(llama, repo, change)
    write_recipe(repo, "llama")
    output, error = inspect(repo, model="llama")
    line = verdict(output, subject)
    assert words in line and ("WRONG" in line and subject in error) != ("not Llama 3's turns" in line)


def test_rows_are_packed_in_their_order(llama: Repo, inspect: Inspect) -> None:
    """Each step takes the rows after those of the step before, in the bins that the trainer itself packs."""
    write_recipe(llama, "packs", PACKING="true", GLOBAL_BATCH=16, SEQ_LEN=200)
    tokenizer = AutoTokenizer.from_pretrained(llama.work / "models/Little-Llama")
    path = str(llama.work / "data/little/round1/training.jsonl")
    steps = PackedSteps(path, 200, TURN_END, 16, 2, False, 7, tokenizer)
    for row, step in ((1, 0), (20, 1)):
        output, error = inspect(llama, "--row", row, "--full", model="packs")
        assert not error and f"rows {16 * step + 1}..{16 * step + 16}, a global batch" in output
        assert f"in the file's order, which training keeps: step {step + 1}" in output
        shown = re.findall(
            r"bin (\d+): (\d+) rows, (\d+) tokens, (\d+) free\n    rows +(.*)\n    tokens +(.*)\n"
            r"    boundaries +(.*)\n    position ids +(.*)",
            output,
        )
        batches = steps.batches(step)
        assert len(shown) == len(batches) > 2 and f"  {len(batches)} bins of at most SEQ_LEN=200" in output
        assert " ".join(line[4] for line in shown) == " ".join(map(str, range(16 * step + 1, 16 * step + 17)))
        for (_, count, tokens, free, rows, lengths, ends, positions), batch in zip(shown, batches, strict=True):
            documents = batch["documents"][0].tolist()
            sizes = [documents.count(n) for n in range(1, max(documents) + 1)]
            assert int(count) == len(sizes) == len(rows.split()) and int(tokens) == len(documents) == 200 - int(free)
            assert numbers(lengths) == sizes
            assert numbers(ends) == [sum(sizes[:i]) for i in range(len(sizes) + 1)]
            assert positions == " ".join(f"0..{n - 1}" for n in sizes)
            assert batch["position_ids"][0].tolist() == [i for n in sizes for i in range(n)]
        assert f"\nrow {row} of 40: " in output and output.count("\nrow ") == 1
    # Two replicas get as many bins each, and which is whose is said.
    write_recipe(llama, "two", PACKING="true", GLOBAL_BATCH=16, SEQ_LEN=200, GPUS_PER_NODE=2)
    output, _ = inspect(llama, model="two")
    total = int(re.search(r"  (\d+) bins of at most", output)[1])
    assert total % 2 == 0 and "bin 1 (replica 0)" in output and "bin 2 (replica 1)" in output


def test_plain_rows_have_no_template(llama: Repo, repo: Repo, inspect: Inspect) -> None:
    """As of Dolly and SQuAD: one BOS that the row itself has, and the end of text last."""

    def plain(row: dict[str, str]) -> dict[str, str]:
        question = (
            row["input"].split("<|end_header_id|>\n\n")[2].removesuffix(f"{TURN_END}<|start_header_id|>assistant")
        )
        return {"input": f"{BOS}{question}", "output": f" {row['output'].removesuffix(TURN_END)}<|end_of_text|>"}

    shutil.copytree(llama.work, repo.work)
    folder = repo.work / "data/little/round1"
    rows = [plain(json.loads(line)) for line in (folder / "training.jsonl").read_text().splitlines()]
    (folder / "rendered.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curate = {key for key in LITTLE if key.startswith("CURATE_")}
    write_recipe(repo, "plain", SCHEMA="squad", CHAT="none")
    path = repo.root / "recipes/plain/plain.env"
    path.write_text("".join(f"{x}\n" for x in path.read_text().splitlines() if x.split("=")[0] not in curate))
    output, error = inspect(repo, model="plain")
    assert not error and "rendered.jsonl" in output
    assert f"one {BOS} (0) at the start of each of 6 rows" in verdict(output, "BOS")
    assert verdict(output, "end of turn").startswith("ok       end of turn: <|end_of_text|> (1) is in each of 6")
    assert verdict(output, "template").startswith("ok       template: CHAT=none: the rows are plain text")


def test_llama3_turns_are_told_from_the_text_alone() -> None:
    """Llama 3.1's template writes dates before the system message, and would write them again."""

    def turn(role: str, content: str) -> str:
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"

    opening = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    dates = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    prompt = BOS + turn("system", dates + "detailed thinking on") + turn("user", "a\n\nb") + opening
    system, user = {"role": "system", "content": "detailed thinking on"}, {"role": "user", "content": "a\n\nb"}
    assert turns(prompt, "llama3") == [system, user]
    assert turns(BOS + turn("user", dates + "x") + opening, "llama3") == [{"role": "user", "content": dates + "x"}]
    for other in ("", prompt.removeprefix(BOS), BOS + prompt, prompt + "x", prompt[:80], BOS + opening):
        assert turns(other, "llama3") is None


def test_turns_are_told_from_the_text_alone() -> None:
    prompt = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n"
    assert turns(prompt) == [{"role": "system", "content": ""}, {"role": "user", "content": "a\nb"}]
    for other in ("", "plain", prompt + "x", " " + prompt, "<|im_start|>assistant\n"):
        assert turns(other) is None
    assert difference("abc", "abc") is None
    assert "character 2 the row has 'c', the template 'd'" in difference("abc", "abd")
    assert "character 3 the row has '', the template 'd'" in difference("abc", "abcd")
