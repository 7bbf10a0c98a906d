"""make results: the run in one table, and what the documents copy of the committed ones."""

import json
import re
from pathlib import Path

import bench_table
import pytest

import results
from conftest import ROOT, Repo
from sft.eval.metrics import score_rows
from sft.lib.table import markdown
from sft.recipe.paths import Paths
from sft.recipe.read import load
from sft.results import tables


def test_the_readme_quotes_the_committed_run() -> None:
    result = json.loads((ROOT / "results/tiny/results.json").read_text())
    readme = (ROOT / "README.md").read_text()
    assert result["code"]["commit"][:12] in readme and result["code"]["dirty"] is False
    scores = {name: result["scores"][name]["tiny"]["cot"] for name in ("baseline", "trained")}
    for name, row in (("baseline", "baseline"), ("trained", "trained")):
        s = scores[row]
        rates = " | ".join(f"{s[k]:.1%}" for k in ("pass@1", "no_answer", "truncated"))
        assert f"| {name} | {s['n']} | {rates} |" in readme
    assert f"{max(c['peak_memory_bytes'] for c in result['stages'].values()) / 2**30:.1f} GiB at most" in readme
    assert scores["baseline"]["pass@1"] <= 0.05 and scores["trained"]["pass@1"] >= 0.95


def test_the_documents_quote_the_committed_switch() -> None:
    result = json.loads((ROOT / "results/tiny-reasoning/results.json").read_text())
    document = (ROOT / "docs/reasoning.md").read_text()
    assert result["code"]["commit"][:12] in document and result["code"]["dirty"] is False
    scores = {name: result["scores"][name]["tiny-reasoning"] for name in ("baseline", "trained")}
    for name, row in (("round 1, without the switch", "baseline"), ("with the adapter", "trained")):
        rates = " | ".join(f"{scores[row][mode][what]:.1%}" for what in ("think", "accuracy") for mode in ("on", "off"))
        assert f"| {name} | {rates} |" in document
    assert scores["trained"]["on"]["think"] >= 0.95 and scores["trained"]["off"]["think"] <= 0.05


def test_the_documents_print_the_committed_benches() -> None:
    """docs/data.md has what tests/bench/bench_table.py prints, and every figure is from a clean tree."""
    document = (ROOT / "docs/data.md").read_text()
    assert bench_table.table() in document and bench_table.sources() in document, (
        "print it with: python3 tests/bench/bench_table.py"
    )
    for name in ("data", "curation", "average"):
        assert bench_table.load(name)["code"]["dirty"] is False, name


def test_the_documents_quote_the_benches_of_the_evaluation() -> None:
    document = " ".join((ROOT / "docs/evaluation.md").read_text().split())
    table = {name: "\n".join(bench_table.load(name)["table"]) for name in ("eval", "vllm")}
    names = ("one process", "rule release", "today's rule", "rule values")
    seconds = [re.search(rf"{name} +16,384 +([0-9.]+)", table["eval"]) for name in names]
    upstream, release, today, values = (found[1] for found in seconds if found)
    assert f"16,384 answers took {upstream} s there, and {release}, {today} and {values} s by" in document
    rates = re.search(r"([0-9.]+) times the tokens/s, with ([0-9.]+) times the CPU", table["vllm"])
    assert rates and f"{rates[1]} times the tokens/s with {rates[2]} times the CPU" in document
    assert float(rates[1]) >= 0.95
    assert not any(bench_table.load(name)["code"]["dirty"] for name in table)


def test_a_try_of_a_few_rows_does_not_replace_the_recipes_own_evaluation(repo: Repo) -> None:
    paths = Paths(repo.work, "tiny", "1", load("tiny", "1"))
    for name, finished, n in (
        ("eval", "2026-01-01", 300),
        ("eval-tiny-4", "2026-01-02", 5),
        ("eval-x", "2026-01-03", 7),
    ):
        folder = paths.run / name
        folder.mkdir(parents=True)
        scores = {"trained": {"tiny": {"cot": {"n": n}}, name: {"cot": {"n": n}}}}
        (folder / "DONE").write_text(json.dumps({"finished": finished, "scores": scores}))
    found = results.evaluations(paths, "")
    assert list(found) == ["eval-tiny-4", "eval-x", "eval"]
    merged = results.merged(found)["trained"]
    assert next(iter(merged)) == "tiny" and merged["tiny"]["cot"]["n"] == 300 and merged["eval-x"]["cot"]["n"] == 7


@pytest.mark.parametrize("file", sorted((ROOT / "results").glob("*/results.json")), ids=lambda file: file.parent.name)
def test_committed_tables_say_all_of_the_scores(file: Path) -> None:
    result = json.loads(file.read_text())
    text = (file.parent / "README.md").read_text()
    assert text == tables.table(result)
    for model, name, mode, _ in score_rows(result["scores"]):
        assert f"| {model} | {name} | {tables.shown(mode)} |" in text, (model, name, mode)


def test_results(trained: Repo) -> None:
    folder = trained.run_dir() / "results"
    result = json.loads((folder / "results.json").read_text())
    assert (result["model"], result["round"], result["steps"], result["links"]) == ("mini", "1", 60, 1)
    baseline, mine = (result["scores"][name]["mini"]["cot"] for name in ("baseline", "trained"))
    assert baseline["n"] == mine["n"] == 300
    assert result["stages"].keys() == {"data", "model", "train", "convert", "average", "eval"}
    assert all(cost["seconds"] >= 0 and cost["peak_memory_bytes"] > 1 << 20 for cost in result["stages"].values())
    assert result["data_sha256"] == trained.done(trained.work / "data/mini/round1")["outputs"]["all.jsonl"]
    assert result["final_loss"] == trained.losses()[60]
    assert (result["recipe"]["LR"], result["recipe"]["AVERAGE_STEPS"]) == ("1e-3", "40,50,60")
    assert result["scored"] == {"baseline": "models/mini", "trained": "runs/mini/round1/average"}
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    table = (folder / "README.md").read_text()
    assert f"| trained | mini | cot | 300 | {mine['pass@1']:.1%} |" in table and "| train |" in table


def test_every_done_names_the_code(trained: Repo) -> None:
    folders = ["data/mini/round1", "models/mini"] + [
        f"runs/mini/round1/{s}" for s in ("train", "average", "eval", "results")
    ]
    for folder in [*folders, "runs/mini/round1/convert/step_60"]:
        done = trained.done(trained.work / folder)
        assert done["code"].keys() >= {"commit", "dirty"} and len(done["recipe_sha256"]) == 64, folder


def test_the_table_says_when_the_code_was_changed() -> None:
    score = {"s": {"plain": {"n": 1, "pass@1": 1.0, "no_answer": 0.0, "truncated": 0.0}}}
    result = {
        "model": "m", "round": "1", "code": {"commit": "c" * 40, "dirty": True},
        "recipe_sha256": "r", "data_sha256": "d",
        "steps": 1, "links": 1, "final_loss": 1.0, "scores": {"baseline": score, "trained": score},
        "evaluations": {"eval": {"decoding": "greedy", "grader": "values", "protocol": None}},
        "scored": {"baseline": "models/m", "trained": "runs/m/round1/average"},
        "stages": {"data": {"seconds": 1.0, "peak_memory_bytes": 1 << 20}},
    }  # fmt: skip
    assert "with uncommitted changes" in tables.table(result)
    assert tables.summary(result) == [
        "| m | 1 | `runs/m/round1/average` | s, 1 | - | pass@1 100.0% -> 100.0% | 1 in 1 link(s) | 1.0000 | 0.00 "
        "| `cccccccccccc` (dirty) |"
    ]


def test_the_table_of_results_is_printed_from_them() -> None:
    """results/README.md has the rows that make results printed of each committed run, and no other."""
    table = [line for line in (ROOT / "results/README.md").read_text().splitlines() if line.startswith("|")]
    runs = [json.loads(path.read_text()) for path in sorted((ROOT / "results").glob("*/results.json"))]
    assert table[:2] == markdown([tables.HEAD]) and len(runs) >= 2
    assert table[2:] == [row for result in runs for row in tables.summary(result)]
    assert not any(result["code"]["dirty"] for result in runs)
