"""Data and steps that teach nothing: refused before anything is queued, and where they occur."""

import json
import shutil
from pathlib import Path

import pytest

from conftest import Repo, failed
from little import conversations, little, write_data, write_recipe
from sft.engines import learning
from sft.engines.nemo_rl import driver_log
from sft.lib.errors import Failure


def test_data_of_which_nothing_fits_is_refused_before_anything_is_queued(copy: Repo) -> None:
    copy.derive("short", SEQ_LEN=16)
    call = copy.call("scripts/submit.sh", "train", "short", "1")
    words = "of 200 rows drawn of 260 none carries loss", "too long for SEQ_LEN=16"
    failed(call, "all.jsonl", *words, status=(1,))
    assert not (copy.work / "runs/short/round1/train").exists()
    # NeMo-RL's limit is one token lower, and counts the newline after the end of turn.
    for batch, engine in ((8, "automodel"), (8, "nemo-rl")):
        recipe = {"ENGINE": engine, "SEQ_LEN": 16, "GLOBAL_BATCH": batch, "CHAT": "chatml", "SEED": 1}
        with pytest.raises(Failure, match="none carries loss"):
            learning.check_rows(recipe, copy.work / "data/mini/round1/all.jsonl", 600, copy.work / "models/mini")


def lines(copy: Repo, tmp_path: Path, fitting: int, long: int) -> Path:
    """Rows of the mini data, and such as have some 4,000 tokens."""
    first = json.loads((copy.work / "data/mini/round1/all.jsonl").read_text().splitlines()[0])
    row = first | {"output": "1" * 4000 + first["output"]}
    file = tmp_path / "rows.jsonl"
    file.write_text((json.dumps(row) + "\n") * long + (json.dumps(first) + "\n") * fitting)
    return file


@pytest.mark.parametrize("engine", ["automodel", "nemo-rl", "nemo2"])
def test_a_share_that_does_not_fit_is_told(
    copy: Repo, tmp_path: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {"ENGINE": engine, "SEQ_LEN": 256, "GLOBAL_BATCH": 8, "CHAT": "chatml", "SEED": 1}
    start, fate = copy.work / "models/mini", "are cut" if engine == "nemo2" else "carry no loss"
    learning.check_rows(recipe, lines(copy, tmp_path, 15, 25), 40, start)
    assert f": 62.5% of 40 rows are too long for SEQ_LEN=256 and {fate};" in capsys.readouterr().err
    learning.check_rows(recipe, lines(copy, tmp_path, 40, 0), 40, start)
    assert capsys.readouterr().err == ""
    few = lines(copy, tmp_path, 4, 36)  # 0.8 in a step of 8
    if engine == "nemo2":
        learning.check_rows(recipe, few, 40, start)
    else:
        with pytest.raises(Failure, match="of 40 rows 4 carry loss, not one in a step of GLOBAL_BATCH=8: 36 are too"):
            learning.check_rows(recipe, few, 40, start)
    learning.check_rows(recipe, lines(copy, tmp_path, 5, 35), 40, start)


def test_a_large_file_is_sampled_at_the_starts_of_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "LARGE", 1000)
    file = tmp_path / "rows"
    file.write_bytes(b"".join(b"%04d%s\n" % (n, b"x" * (n % 7)) for n in range(5000)))
    offsets = learning.sample(file, 3)
    content = file.read_bytes()
    assert 150 < len(offsets) <= 200 and all(at == 0 or content[at - 1 : at] == b"\n" for at in offsets)
    assert {int(content[at : at + 4]) // 1000 for at in offsets} == {0, 1, 2, 3, 4}
    assert learning.sample(file, 3) == offsets


@pytest.mark.slow
def test_a_step_without_label_tokens_ends_the_run(repo: Repo) -> None:
    """The other steps have some, so that the data are not refused as a whole."""
    from transformers import AutoTokenizer

    little(repo)
    data, talks = repo.work / "data/little/round1", conversations(40)
    for talk in talks[6:12]:  # the second step
        talk[-1]["content"] = "1 " * 300
    shutil.rmtree(data)
    write_data(data, AutoTokenizer.from_pretrained(repo.work / "models/Little-Llama"), talks)
    write_recipe(repo, "llama", SAVE_EVERY=1)
    result = repo.call("bash", "sbatch/train.sbatch", "llama", "1")
    output = result.stdout + result.stderr
    assert result.returncode == 1 and "error: step 2: no token carried loss; run make inspect" in output, output
    assert "15.0% of 40 rows are too long for SEQ_LEN=200 and carry no loss" in output
    assert "the last complete checkpoint is step 1 of 9" in output
    assert not (repo.run_dir("llama") / "train/DONE").exists()


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_run(copy: Repo) -> None:
    copy.derive("wild", LR="1e30", MIN_LR="1e30", WARMUP=0, SAVE_EVERY=1)
    result = copy.call("bash", "sbatch/train.sbatch", "wild", "1")
    output = result.stdout + result.stderr
    assert result.returncode == 1 and "error: step 2: the loss is nan; lower LR" in output, output
    assert "the last complete checkpoint is step 1 of 60" in output


@pytest.mark.parametrize(
    "loss,labels,words",
    [
        (0.0, 0, "step 7: no token carried loss"),
        (0.0, None, "step 7: no token carried loss"),
        (float("nan"), 9, "step 7: the loss is nan"),
        (float("inf"), None, "step 7: the loss is inf"),
    ],
)
def test_what_ends_a_run(loss: float, labels: int | None, words: str) -> None:
    with pytest.raises(Failure, match=words):
        learning.check_step(7, loss, labels)
    learning.check_step(7, 0.0, 9)
    learning.check_step(7, 2.5)


def test_a_loss_of_nemo_rl_that_is_no_number_ends_the_link(tmp_path: Path) -> None:
    (tmp_path / "LINK").write_text('{"from": 4, "started": 0}')
    (tmp_path / "end").touch()
    steps = [(5, "1.2500"), (6, "nan"), (7, "nan")]
    heads = [
        f"========================= Step {n}/60 =========================\n  • Loss: {loss}\n" for n, loss in steps
    ]
    (tmp_path / "driver.log").write_text("".join(heads))
    driver_log.follow(tmp_path, 60)
    assert (tmp_path / "failed").read_text().startswith("step 6: the loss is nan; lower LR")
