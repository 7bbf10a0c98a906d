"""The data stage: prompts, splits, order, and what happens to broken input and full disks."""

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import Repo, failed, heed_ctrl_c, ok
from sft.data import openmath, tiny
from sft.lib.errors import Failure
from sft.rows import chat, files, spool


def test_prompts_are_the_published_ones() -> None:
    """Expected strings written out by hand from NeMo-Skills 8b18f39 prompt/config/{generic/math,openmath/tir}.yaml."""
    row = {"problem": "1+{x}?", "generated_solution": "So \\boxed{2}"}
    system = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n"
    end = "<|im_end|>\n<|im_start|>assistant\n"
    math = "Solve the following math problem. Make sure to put the answer (and only answer) inside \\boxed{}.\n\n1+{x}?"
    assert openmath.format_row("cot", row) == {"input": system + math + end, "output": "So \\boxed{2}<|im_end|>\n"}
    assert openmath.format_row("genselect", row)["input"] == system + "1+{x}?" + end
    row["generated_solution"] = "Remaining code executions: 12. Remaining code executions: 11."
    tir = (
        "Solve the following math problem, integrating natural language reasoning with Python code executions.\n"
        "You may perform up to 13 Python code calls to assist your reasoning.\n"
        "Make sure to put the answer (and only answer) inside \\boxed{}.\n\n1+{x}?"
    )
    assert openmath.format_row("tir", row)["input"] == system + tir + end


def test_the_prompt_is_what_the_chat_template_renders(prepared: Repo) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(prepared.work / "models" / "mini")
    turns = [{"role": "system", "content": ""}, {"role": "user", "content": "a\nb"}]
    assert chat.chatml("a\nb") == tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    turns.append({"role": "assistant", "content": "c"})
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    assert whole == chat.chatml("a\nb") + "c" + chat.END_OF_TURN + "\n"


def test_code_executions() -> None:
    assert openmath.code_executions("x Remaining code executions: 7. y Remaining code executions: 6.") == 8
    assert openmath.code_executions("Remaining code executions: 10.") == 11  # the published script reads the 1 only
    assert openmath.code_executions("You have run out of code executions! ...") == 1
    assert openmath.code_executions("Remaining code executions:  \n3 left") == 4  # blanks are skipped, as published
    for text in ("no budget at all", "Remaining code executions: many", "Remaining code executions: x executions: 3"):
        with pytest.raises(ValueError, match="names no number"):
            openmath.code_executions(text)


def test_generated_data_has_the_published_schema_and_an_unseen_test_set(prepared: Repo) -> None:
    source = prepared.work / "data" / "mini" / "source"
    training = set()
    for split in ("cot", "tir", "genselect"):
        table = pq.read_table(source / f"{split}-00000-of-00001.parquet")
        assert tuple(table.column_names) == tiny.COLUMNS
        for row in table.to_pylist():
            assert row["inference_mode"] == split
            training.add(frozenset(re.findall(r"\d+", row["problem"].split("Solution 0")[0])))
    held = [json.loads(line) for line in (source / "test.jsonl").read_text().splitlines()]
    assert len(held) >= 200
    for row in held:
        numbers = re.findall(r"\d+", row["problem"])
        assert sum(map(int, numbers)) == int(row["expected_answer"])
        assert frozenset(numbers) not in training


def test_rows_are_all_there_shuffled_and_described(prepared: Repo) -> None:
    folder = prepared.work / "data" / "mini" / "round1"
    done = prepared.done(folder)
    splits = [(folder / f"{s}.jsonl").read_text().splitlines() for s in ("cot", "tir", "genselect")]
    joined = [line for split in splits for line in split]
    mixed = (folder / "all.jsonl").read_text().splitlines()
    assert [len(s) for s in splits] == [200, 40, 20] == [done["rows"][s] for s in ("cot", "tir", "genselect")]
    assert sorted(mixed) == sorted(joined) and mixed != joined
    digest = subprocess.run(["sha256sum", folder / "all.jsonl"], capture_output=True, text=True, check=True).stdout
    assert done["outputs"]["all.jsonl"] == digest.split()[0]
    assert done["code"].keys() >= {"commit", "dirty"} and len(done["inputs"]) == 3


def test_a_rerun_skips_and_other_data_is_refused(copy: Repo) -> None:
    before = (copy.work / "data/mini/round1/DONE").stat().st_mtime_ns
    assert "already there" in ok(copy.call("scripts/data.sh", "mini", "1"))
    assert (copy.work / "data/mini/round1/DONE").stat().st_mtime_ns == before
    copy.edit("recipes/mini/round1.env", "GENERATE_PROBLEMS=200", "GENERATE_PROBLEMS=300")
    failed(copy.call("scripts/data.sh", "mini", "1"), "GENERATE_PROBLEMS was 200, is now 300")


def test_a_local_source_takes_the_place_of_the_download(copy: Repo, tmp_path: Path) -> None:
    """qwen7b's own data stage on files of the published schema; JSONL and parquet mixed, below data/ as on the hub."""
    source = tmp_path / "OpenMathReasoning"
    shutil.copytree(copy.work / "data/mini/source", source / "data")
    rows = pq.read_table(source / "data/tir-00000-of-00001.parquet").to_pylist() * 30
    (source / "data/tir-00000-of-00001.parquet").unlink()
    (source / "data/tir.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = ok(copy.call("scripts/data.sh", "qwen7b", "1", DATA_SRC=source))
    assert "cot 200, tir 1,200, genselect 20" in out
    assert (copy.work / "data/openmathreasoning/round1/DONE").is_file()
    failed(copy.call("scripts/data.sh", "qwen7b", "1", DATA_SRC=tmp_path / "no"), "is not a folder")
    failed(copy.call("scripts/data.sh", "qwen7b", "1", DATA_SRC=tmp_path), "has no cot")


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]  # not splitlines: U+2028 is no line's end


# --- the order ---------------------------------------------------------------------------------------------------


def order(seed: int, sizes: list[int], buckets: int, block: int) -> list[int]:
    """Of shards of `sizes` numbered lines, in blocks of `block` bytes."""
    ends = list(itertools.accumulate(sizes, initial=0))
    shards = [
        (f"shard {i}", np.array([len(f"{line}\n") for line in range(*span)]))
        for i, span in enumerate(itertools.pairwise(ends))
    ]
    return spool.shuffled(shards, seed, buckets, block).tolist()


def test_a_shuffled_file_has_every_line_once_and_any_seed_its_own_order() -> None:
    orders = [order(seed, [700, 1, 1300], buckets=7, block=1500) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(2001))


def test_positions_are_uniform_over_the_whole_file_across_shards() -> None:
    """Any tenth of the input is spread evenly over the tenths of the output, and neighbours part.

    8,000 lines, 20 seeds: a cell of the 10 x 10 table expects 1,600 +- 36 (of a fixed row sum); 5 sigma is 180.
    """
    lines, table, adjacent = 8000, [[0] * 10 for _ in range(10)], 0
    for seed in range(20):
        found = order(seed, [4600, 2600, 800], buckets=13, block=2500)
        for position, line in enumerate(found):
            table[line * 10 // lines][position * 10 // lines] += 1
        adjacent += sum(b - a == 1 for a, b in itertools.pairwise(found))
    assert all(abs(cell - 1600) < 180 for row in table for cell in row), table
    assert adjacent < 60  # one in 8,000 pairs follows by chance: 20 expected


def write_source(folder: Path, rows: int, size: int, seed: int = 0) -> Path:
    """A source of `rows` rows over the splits, with solutions of about `size` characters; parquet, some files."""
    draw = random.Random(seed)
    words = ["sum", "\\frac{1}{2}", "so", "therefore", "x^2", '"let"', "≤", "\n", "12", "prime"]
    folder.mkdir(parents=True, exist_ok=True)
    pool = [" ".join(draw.choices(words, k=200)) for _ in range(300)]
    for split, share in (("cot", 0.6), ("tir", 0.3), ("genselect", 0.1)):
        many = []
        for n in range(int(rows * share)):
            text = f"{split} {n} " + " ".join(draw.choices(pool, k=max(1, size // 800)))
            many.append(
                {
                    "expected_answer": str(n),
                    "problem_source": draw.choice(("aops_c6_high_school_olympiads", "aops_c4_high_school_math")),
                    "pass_rate_72b_tir": draw.choice(("n/a", "0.1", "0.9")),
                    "problem": f"{split} problem {n}",
                    "generated_solution": text + (" Remaining code executions: 3." if split == "tir" else ""),
                }
            )
        pq.write_table(pa.Table.from_pylist(many), folder / f"{split}-00000-of-00001.parquet", row_group_size=200)
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """44 MB of text: several shards."""
    return write_source(tmp_path_factory.mktemp("large"), 5000, 9000)


def folder_of(repo: Repo, round_: str = "1") -> Path:
    return repo.work / "data" / "openmathreasoning" / f"round{round_}"


def hashes(folder: Path) -> dict[str, str]:
    return json.loads((folder / "DONE").read_text())["outputs"]


def test_the_bytes_do_not_depend_on_the_workers(repo: Repo, large: Path, tmp_path: Path) -> None:
    found = []
    for workers in (1, 3):
        work = tmp_path / f"w{workers}"
        ok(repo.call("scripts/data.sh", "qwen7b", "1", DATA_SRC=large, WORK=work, WORKERS=workers, REPORT="none"))
        found.append(hashes(work / "data/openmathreasoning/round1"))
        assert sorted(p.name for p in (work / "data/openmathreasoning/round1").iterdir()) == [
            *("DONE", "all.jsonl", "cot.jsonl", "genselect.jsonl", "tir.jsonl")
        ]
    assert found[0] == found[1] and len(found[0]) == 4
    folder = tmp_path / "w1/data/openmathreasoning/round1"
    done = json.loads((folder / "DONE").read_text())
    mixed = (folder / "all.jsonl").read_bytes().splitlines()
    apart = [line for s in ("cot", "tir", "genselect") for line in (folder / f"{s}.jsonl").read_bytes().splitlines()]
    assert sorted(mixed) == sorted(apart) and mixed != apart and len(mixed) == done["rows"]["all"] == 5000
    problems = [json.loads(line)["output"].split()[:2] for line in apart]
    assert problems == [[s, str(n)] for s, k in (("cot", 3000), ("tir", 1500), ("genselect", 500)) for n in range(k)]
    content = (folder / "all.jsonl").read_bytes()
    lengths = sorted((len(line) + 1 for line in mixed), reverse=True)
    assert [row["bytes"] for row in done["longest"]] == lengths[: spool.LONGEST]
    assert all(content[r["offset"] : r["offset"] + r["bytes"] - 1] in mixed for r in done["longest"][:3])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(repo: Repo, large: Path, tmp_path: Path) -> None:
    """132 MB of text more, and the largest of all processes (as DONE has it) takes less than a third of that more.

    Between 270 MB and 1.4 GB it is the same within a tenth: make bench measures that, which takes too long here.
    """
    huge = write_source(tmp_path / "huge", 20000, 9000)
    peaks = []
    for name, source in (("large", large), ("huge", huge)):
        ok(repo.call("scripts/data.sh", "qwen7b", "1", DATA_SRC=source, WORK=tmp_path / name, REPORT="none"))
        peaks.append(
            json.loads((tmp_path / name / "data/openmathreasoning/round1/DONE").read_text())["peak_memory_bytes"]
        )
    assert peaks[1] - peaks[0] < 132e6 / 3, peaks
    assert peaks[1] < 250 << 20


# --- interruptions -----------------------------------------------------------------------------------------------


def test_an_interrupted_run_is_gone_on_with(repo: Repo, large: Path, tmp_path: Path) -> None:
    ok(repo.call("scripts/data.sh", "qwen7b", "1", DATA_SRC=large, WORK=tmp_path / "whole", REPORT="none"))
    part = repo.work / "data/openmathreasoning/.round1.part"
    command = ["scripts/data.sh", "qwen7b", "1"]
    env = repo.env | {"DATA_SRC": str(large), "WORKERS": "1", "REPORT": "none"}
    process = subprocess.Popen(
        command,
        cwd=repo.root,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )
    deadline = time.time() + 60
    while not list(part.glob("shards/*.json")) and time.time() < deadline and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "error: interrupted; run the same command again" in output, output
    assert "Traceback" not in output
    shards_left = len(list(part.glob("shards/*.json")))
    assert shards_left >= 1 and not folder_of(repo).exists()
    out = ok(repo.call("scripts/data.sh", "qwen7b", "1", DATA_SRC=large, REPORT="none"))
    assert re.search(rf"going on with an interrupted run: {shards_left} of [3-9] shards are there", out)
    assert hashes(folder_of(repo)) == hashes(tmp_path / "whole/data/openmathreasoning/round1")
    assert not part.exists()


def test_what_an_interrupted_run_of_other_data_left_is_not_used(repo: Repo, large: Path) -> None:
    part = repo.work / "data/openmathreasoning/.round1.part"
    (part / "shards").mkdir(parents=True)
    (part / "IDENTITY").write_text('{"recipe": {}, "inputs": {}}')
    (part / "shards" / "cot-00000.rows").write_text("{}\n")
    out = ok(repo.call("scripts/data.sh", "qwen7b", "1", DATA_SRC=large, REPORT="none"))
    assert "going on" not in out and len(rows_of(folder_of(repo) / "cot.jsonl")) == 3000


def test_a_killed_worker_is_one_line_and_loses_nothing_finished(repo: Repo, large: Path) -> None:
    env = repo.env | {"DATA_SRC": str(large), "WORKERS": "1", "REPORT": "none"}
    process = subprocess.Popen(
        ["scripts/data.sh", "qwen7b", "1"],
        cwd=repo.root,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    part = repo.work / "data/openmathreasoning/.round1.part"
    while not list(part.glob("shards/*.json")) and process.poll() is None:
        time.sleep(0.01)
    parents = {
        int(p)
        for p in subprocess.run(
            ["pgrep", "-f", f"data.py qwen7b 1 --work {repo.work}"], capture_output=True, text=True
        ).stdout.split()
    }
    worker = next(p for p in parents if int((Path("/proc") / str(p) / "stat").read_text().split()[3]) in parents)
    os.kill(worker, signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    errors = [line for line in output.splitlines() if "error" in line]
    assert process.returncode == 1 and errors == [
        "error: a worker was killed, maybe for memory; set WORKERS to fewer, and run it again"
    ], output
    assert list(part.glob("shards/*.json"))


def test_a_full_disk_publishes_nothing_and_is_gone_on_with(repo: Repo, tmp_path: Path, small_disk: Path) -> None:
    """The rows are so short that their prompts, which nobody can foresee, fill the disk."""
    source = tmp_path / "source"
    source.mkdir()
    short = json.dumps({"problem": "p", "generated_solution": "Remaining code executions: 1."})
    for split in ("cot", "tir", "genselect"):
        (source / f"{split}.jsonl").write_text((short + "\n") * 900)
    call = ("scripts/data.sh", "qwen7b", "1")
    failed(repo.call(*call, DATA_SRC=source, WORK=small_disk, REPORT="none"), "no space left; free some")
    assert not (small_disk / "data/openmathreasoning/round1").exists()
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    ok(repo.call(*call, DATA_SRC=source, WORK=small_disk, REPORT="none"))
    assert json.loads((small_disk / "data/openmathreasoning/round1/DONE").read_text())["rows"]["all"] == 2700


def test_a_disk_that_cannot_hold_it_is_refused_beforehand(repo: Repo, large: Path, small_disk: Path) -> None:
    line = failed(repo.call("scripts/data.sh", "qwen7b", "1", DATA_SRC=large, WORK=small_disk), "GB are needed")
    assert re.search(r"has 0.0 GB free, and 0\.[12] GB are needed", line)
    assert not list((small_disk / "data").rglob("*.rows"))


def test_workers_end_with_a_parent_that_is_killed(repo: Repo, large: Path) -> None:
    """They would hold the lock on the data for ever."""
    env = repo.env | {"DATA_SRC": str(large), "WORKERS": "2", "REPORT": "none"}
    process = subprocess.Popen(["scripts/data.sh", "qwen7b", "1"], cwd=repo.root, env=env)
    part = repo.work / "data/openmathreasoning/.round1.part"
    while not list(part.glob("shards/*.json")) and process.poll() is None:
        time.sleep(0.01)

    def alive() -> list[int]:
        command = ["pgrep", "-f", f"data.py qwen7b 1 --work {repo.work}"]
        return [int(pid) for pid in subprocess.run(command, capture_output=True, text=True).stdout.split()]

    assert len(alive()) == 3
    os.kill(min(alive()), signal.SIGKILL)
    assert process.wait(timeout=20) != 0
    for _ in range(100):
        if not alive():
            break
        time.sleep(0.05)
    assert not alive()
    assert "going on with an interrupted run" in ok(
        repo.call("scripts/data.sh", "qwen7b", "1", DATA_SRC=large, REPORT="none")
    )


# --- what cannot be read -------------------------------------------------------------------------------------------


def broken_source(copy: Repo, tmp_path: Path) -> Path:
    source = tmp_path / "source"
    shutil.copytree(copy.work / "data/mini/source", source)
    shutil.rmtree(copy.work / "data/mini/round1")
    return source


def nothing_left(copy: Repo) -> bool:
    return not list((copy.work / "data/mini").glob("*round1*"))


def test_a_truncated_parquet_is_named(copy: Repo, tmp_path: Path) -> None:
    source = broken_source(copy, tmp_path)
    file = source / "tir-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    failed(copy.call("scripts/data.sh", "mini", "1", DATA_SRC=source), str(file), "cannot be read as parquet")
    assert nothing_left(copy)


def test_a_parquet_that_is_broken_inside_is_named(copy: Repo, tmp_path: Path) -> None:
    """The footer is whole, so the fault shows only when the rows are read."""
    source = broken_source(copy, tmp_path)
    file = source / "cot-00000-of-00001.parquet"
    content = bytearray(file.read_bytes())
    content[200 : len(content) // 2] = os.urandom(len(content) // 2 - 200)
    file.write_bytes(content)
    failed(copy.call("scripts/data.sh", "mini", "1", DATA_SRC=source), str(file))
    assert nothing_left(copy)


@pytest.mark.parametrize("split", ["cot", "tir", "genselect"])
@pytest.mark.parametrize("column", ["problem", "generated_solution"])
def test_a_column_that_is_missing_null_or_no_text_is_named(copy: Repo, tmp_path: Path, split: str, column: str) -> None:
    source = broken_source(copy, tmp_path)
    file = source / f"{split}-00000-of-00001.parquet"
    table = pq.read_table(file)
    at = table.column_names.index(column)
    null = table.column(column).to_pylist()
    null[7] = None
    for name, broken, words in (
        ("missing", table.drop_columns([column]), f"no column {column!r}"),
        ("null", table.set_column(at, column, pa.array(null)), f"row 8: field {column!r} is null, no text"),
        (
            "number",
            table.set_column(at, column, pa.array(range(len(null)))),
            f"column {column!r} holds int64, not text",
        ),
    ):
        pq.write_table(broken, file, row_group_size=5)
        failed(copy.call("scripts/data.sh", "mini", "1", DATA_SRC=source, WORKERS=1), str(file), words)
        assert nothing_left(copy), name


def test_text_that_is_not_utf8_is_named(copy: Repo, tmp_path: Path) -> None:
    source = broken_source(copy, tmp_path)
    file = source / "cot-00000-of-00001.parquet"
    table = pq.read_table(file)
    rows = table.column("problem").to_pylist()
    raw = pa.array([r.encode() if i != 3 else b"\xff\xfe" for i, r in enumerate(rows)], pa.binary()).cast(
        pa.string(), safe=False
    )
    pq.write_table(table.set_column(table.column_names.index("problem"), "problem", raw), file)
    failed(copy.call("scripts/data.sh", "mini", "1", DATA_SRC=source), str(file), "not UTF-8")


def test_malformed_jsonl_is_named_by_file_and_line(copy: Repo, tmp_path: Path) -> None:
    source = broken_source(copy, tmp_path)
    (source / "cot-00000-of-00001.parquet").unlink()
    good = json.dumps({"problem": "p", "generated_solution": "s"})
    file = source / "cot.jsonl"
    for line, words in (
        ('{"problem": "x"', "malformed"),
        (json.dumps({"problem": "\ud800", "generated_solution": "s"}), "surrogates not allowed"),
        ("[1]", "malformed"),
        ('{"problem": "x"}', "field 'generated_solution' is not there"),
        ('{"problem": 1, "generated_solution": "s"}', "field 'problem' is int, no text"),
        ('{"problem": null, "generated_solution": "s"}', "field 'problem' is null"),
    ):
        file.write_text(f"{good}\n{good}\n{line}\n{good}\n")
        failed(copy.call("scripts/data.sh", "mini", "1", DATA_SRC=source, WORKERS=1), words, f"{file}:3:")
    assert nothing_left(copy)


def test_a_number_that_json_does_not_know_is_read_as_the_published_script_reads_it(copy: Repo, tmp_path: Path) -> None:
    source = broken_source(copy, tmp_path)
    (source / "cot-00000-of-00001.parquet").unlink()
    good = json.dumps({"problem": "p", "generated_solution": "s", "answer": float("nan")})
    (source / "cot.jsonl").write_text(f"{good}\n" * 20)
    assert "cot 20" in ok(copy.call("scripts/data.sh", "mini", "1", DATA_SRC=source))


def test_a_jsonl_file_is_cut_into_parts_at_lines(tmp_path: Path) -> None:
    """Wherever the cuts fall, every line is read once, in order, and a fault is named by its line."""
    draw = random.Random(3)
    lines = [json.dumps({"problem": str(n), "generated_solution": "x" * draw.randrange(60)}) for n in range(400)]
    path = tmp_path / "cot.jsonl"
    for end in ("\n", ""):
        path.write_text("\n".join(lines) + end)
        for block in (10, 97, 1000, 10**6):
            parts = files.cut([files.inspect_source((path, "cot", list(files.TEXTS)))], block)
            assert block > 10**5 or len(parts) > 10
            read = [p for part in parts for _, batch in files.batches(part, ["problem"]) for p in batch["problem"]]
            assert read == [str(n) for n in range(400)]
    lines[333] = "broken"
    path.write_text("\n".join(lines))
    for block in (100, 1000):
        parts = files.cut([files.inspect_source((path, "cot", list(files.TEXTS)))], block)
        with pytest.raises(Failure, match=re.escape(f"{path}:334: malformed")):
            for part in parts:
                list(files.batches(part, ["problem"]))


def test_a_source_that_vanishes_or_changes_in_mid_run_is_named(tmp_path: Path) -> None:
    path = write_source(tmp_path / "s", 300, 100) / "cot-00000-of-00001.parquet"
    parts = files.cut([files.inspect_source((path, "cot", list(files.TEXTS)))], 1 << 20)
    os.utime(path, (1, 1))
    with pytest.raises(Failure, match="has changed since it was hashed"):
        files.check_unchanged(parts[0])
    path.unlink()
    with pytest.raises(Failure, match="has vanished; bring it back"):
        files.check_unchanged(parts[0])
    with pytest.raises(Failure, match="has vanished; bring it back"):
        list(files.batches(parts[0], list(files.TEXTS)))


def test_a_source_that_vanishes_while_the_stage_runs_publishes_nothing(repo: Repo, tmp_path: Path) -> None:
    source = write_source(tmp_path / "s", 5000, 9000)
    process = subprocess.Popen(
        ["scripts/data.sh", "qwen7b", "1"],
        cwd=repo.root,
        env=repo.env | {"DATA_SRC": str(source), "WORKERS": "1", "REPORT": "none"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    part = repo.work / "data/openmathreasoning/.round1.part"
    while not list(part.glob("shards/*.json")) and process.poll() is None:
        time.sleep(0.01)
    (source / "genselect-00000-of-00001.parquet").unlink()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "genselect-00000-of-00001.parquet has vanished; bring it back" in output, output
    assert output.count("error") == 1 and "Traceback" not in output
    assert not folder_of(repo).exists() and not part.exists()


def test_a_tir_row_without_a_budget_is_named(copy: Repo, tmp_path: Path) -> None:
    source = broken_source(copy, tmp_path)
    (source / "tir-00000-of-00001.parquet").unlink()
    (source / "tir.jsonl").write_text('{"problem": "p", "generated_solution": "s"}\n')
    failed(copy.call("scripts/data.sh", "mini", "1", DATA_SRC=source), "tir.jsonl:1: tir solution names no number")


def test_format_row_names_what_is_missing() -> None:
    with pytest.raises(ValueError, match="problem"):
        openmath.format_row("cot", {"generated_solution": "s"})
    assert openmath.format_row("cot", {"problem": "", "generated_solution": ""})["output"] == "<|im_end|>\n"
    with pytest.raises(Failure):
        files.source_files(Path("/nonexistent"), "cot")


# --- other outputs -------------------------------------------------------------------------------------------------


def test_messages_columns_and_parquet_on_request(copy: Repo, tmp_path: Path) -> None:
    source = copy.work / "data/mini/source"
    call = ("scripts/data.sh", "mini", "1")
    text = rows_of(copy.work / "data/mini/round1/all.jsonl")
    ok(
        copy.call(
            *call,
            DATA_SRC=source,
            WORK=tmp_path / "m",
            DATA_FORM="messages",
            DATA_COLUMNS="problem_source,used_in_kaggle",
        )
    )
    rows = rows_of(tmp_path / "m/data/mini/round1/all.jsonl")
    assert [r.keys() for r in rows[:2]] == [{"messages", "problem_source", "used_in_kaggle"}] * 2
    rendered = []
    for row in rows:
        turns = {m["role"]: m["content"] for m in row["messages"]}
        assert list(turns) == ["system", "user", "assistant"] and turns["system"] == ""
        rendered.append({"input": chat.chatml(turns["user"]), "output": openmath.ending(turns["assistant"])})
    assert rendered == text  # the same order, too
    ok(copy.call(*call, DATA_SRC=source, WORK=tmp_path / "p", DATA_FORMAT="parquet", DATA_COLUMNS="expected_answer"))
    table = pq.read_table(tmp_path / "p/data/mini/round1/all.parquet")
    assert table.select(["input", "output"]).to_pylist() == text
    assert all(a.isdigit() for a in table.column("expected_answer").to_pylist())
    done = json.loads((tmp_path / "p/data/mini/round1/DONE").read_text())
    assert done["outputs"].keys() == {f"{n}.parquet" for n in ("all", "cot", "tir", "genselect")}
    failed(copy.call(*call, DATA_SRC=source, WORK=tmp_path / "p"), "DATA_COLUMNS was expected_answer")
    failed(copy.call(*call, DATA_SRC=source, WORK=tmp_path / "x", DATA_COLUMNS="nothing"), "no column 'nothing'")
    failed(copy.call(*call, DATA_SRC=source, WORK=tmp_path / "x", DATA_COLUMNS="problem"), "is a part of every row")


@pytest.mark.slow
def test_a_recipe_takes_what_sft_data_made(copy: Repo, tmp_path: Path) -> None:
    """From graded generations to the trainer's own check of its data."""
    copy.derive("prep", DATASET="mydata", DATASET_SOURCE="prepared")
    copy.edit("recipes/prep/round1.env", "GENERATE_PROBLEMS=200\n", "")
    failed(copy.call("scripts/data.sh", "prep", "1"), "run: make sft-data NAME=mydata INPUT=")
    with open(tmp_path / "output-rs0.jsonl", "w") as file:
        for n in range(40):
            row = {"problem": f"{n}+1?", "generation": f"\\boxed{{{n + 1}}}", "symbolic_correct": n % 4 > 0}
            file.write(json.dumps(row) + "\n")
    arguments = f"--tokenizer {copy.work}/models/mini --prompt-config generic/math"
    ok(copy.call("scripts/tool.sh", "sft-data", INPUT=tmp_path / "output-rs*.jsonl", NAME="mydata", ARGS=arguments))
    out = ok(copy.call("scripts/data.sh", "prep", "1"))
    assert "30 rows in" in out and "made by sft-data" in out
    assert "correctness: 10 dropped" in out and "from every row" in out  # the report
    assert ok(copy.stage("train", "prep", "--check")).strip() == "0"
    assert "row 1 of 30" in ok(copy.call("scripts/tool.sh", "inspect", "prep", "1", ROW=1))


def test_training_refuses_data_that_it_cannot_read(copy: Repo, tmp_path: Path) -> None:
    source = copy.work / "data/mini/source"
    shutil.copytree(source, tmp_path / "source")
    for options, words in (
        ({"DATA_FORMAT": "parquet"}, "DATA_FORMAT=parquet DATA_FORM=text, not input/output JSONL"),
        ({"DATA_FORM": "messages"}, "DATA_FORMAT=jsonl DATA_FORM=messages, not input/output JSONL"),
    ):
        shutil.rmtree(copy.work / "data/mini/round1")
        out = ok(copy.call("scripts/data.sh", "mini", "1", DATA_SRC=tmp_path / "source", **options))
        assert f"report: none: {copy.work}" in out
        failed(copy.stage("train", "mini", "--check"), words)
        failed(copy.call("scripts/tool.sh", "report", "mini", "1"), words)


def test_less_than_a_batch_is_prepared_but_not_trained_on(copy: Repo) -> None:
    copy.derive("large", DATASET="large", GLOBAL_BATCH=264)
    out = ok(copy.call("scripts/data.sh", "large", "1"))
    assert "does not fill one GLOBAL_BATCH=264: training will refuse it" in out
    failed(copy.stage("train", "large", "--check"), "has 260 rows, which do not fill one GLOBAL_BATCH=264")


def test_a_filter_that_leaves_nothing(copy: Repo, tmp_path: Path) -> None:
    """Of all splits: an error. Of one: an empty file, also as parquet."""
    source = write_source(tmp_path / "s", 100, 400)
    tokenizer = copy.work / "models/mini"
    call = ("scripts/data.sh", "qwen7b", "2exact")
    ok(copy.call(*call, DATA_SRC=source, TOKENIZER=tokenizer, DATA_FORMAT="parquet"))
    folder = folder_of(copy, "2exact")
    assert [pq.read_table(folder / f"{s}.parquet").num_rows for s in ("cot", "tir", "genselect", "all")] == [
        0,
        30,
        10,
        40,
    ]
    for split in ("tir", "genselect"):  # nothing of these is easy enough to stay
        table = pq.read_table(source / f"{split}-00000-of-00001.parquet")
        at = table.column_names.index("pass_rate_72b_tir")
        pq.write_table(
            table.set_column(at, "pass_rate_72b_tir", pa.array(["n/a"] * len(table))),
            source / f"{split}-00000-of-00001.parquet",
        )
    failed(
        copy.call("scripts/data.sh", "qwen7b", "2", DATA_SRC=source, TOKENIZER=tokenizer),
        "the filter leaves none of 100 rows",
    )


def test_what_the_filter_cannot_read_is_named(copy: Repo, tmp_path: Path) -> None:
    source = write_source(tmp_path / "s", 100, 400)
    file = source / "tir-00000-of-00001.parquet"
    table = pq.read_table(file)
    at = table.column_names.index("pass_rate_72b_tir")
    rates = table.column("pass_rate_72b_tir").to_pylist()
    olympic = [i for i, s in enumerate(table.column("problem_source").to_pylist()) if "olympiads" in s]
    call = ("scripts/data.sh", "qwen7b", "2")
    for wrong in ("unknown", "nan", None):
        rates[olympic[3]] = wrong
        pq.write_table(table.set_column(at, "pass_rate_72b_tir", pa.array(rates)), file)
        words = f"{file}: row {olympic[3] + 1}: pass_rate_72b_tir is {wrong!r}"
        failed(copy.call(*call, DATA_SRC=source, TOKENIZER=copy.work / "models/mini"), words)
    pq.write_table(table.drop_columns(["problem_source"]), file)
    failed(copy.call(*call, DATA_SRC=source, TOKENIZER=copy.work / "models/mini"), "no column 'problem_source'")
    failed(copy.call(*call, DATA_SRC=source, TOKENIZER=tmp_path), "has no tokenizer.json; set TOKENIZER")


def test_the_empty_are_kept_and_counted(copy: Repo, tmp_path: Path) -> None:
    source = broken_source(copy, tmp_path)
    (source / "cot-00000-of-00001.parquet").unlink()
    rows = [
        {"problem": "", "generated_solution": "s"},
        {"problem": "p", "generated_solution": ""},
        {"problem": "p", "generated_solution": "s"},
    ]
    (source / "cot.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = ok(copy.call("scripts/data.sh", "mini", "1", DATA_SRC=source))
    assert "2 rows have an empty problem or solution; kept" in out
    assert [r["output"] for r in rows_of(copy.work / "data/mini/round1/cot.jsonl")] == [
        "s<|im_end|>\n",
        "<|im_end|>\n",
        "s<|im_end|>\n",
    ]
