"""make results: the run in one table, and what README.md has of the committed ones."""

import json

import results
from conftest import ROOT, Repo


def test_the_readme_quotes_the_committed_run() -> None:
    result = json.loads((ROOT / "results/tiny/results.json").read_text())
    readme = (ROOT / "README.md").read_text()
    assert result["code"]["commit"][:12] in readme and result["code"]["dirty"] is False
    for name, row in (("untouched base", "baseline"), ("averaged", "averaged")):
        s = result[row]
        rates = " | ".join(f"{s[k]:.1%}" for k in ("pass@1", "no_answer", "truncated"))
        assert f"| {name} | {s['n']} | {rates} |" in readme
    assert f"{max(c['peak_memory_bytes'] for c in result['stages'].values()) / 2**30:.1f} GiB at most" in readme
    assert result["baseline"]["pass@1"] <= 0.05 and result["averaged"]["pass@1"] >= 0.95


def test_the_readme_quotes_the_committed_switch() -> None:
    result = json.loads((ROOT / "results/tiny-reasoning/results.json").read_text())
    readme = (ROOT / "README.md").read_text()
    assert result["code"]["commit"][:12] in readme and result["code"]["dirty"] is False
    scores = {name: result["scores"][name]["tiny-reasoning"] for name in ("baseline", "trained")}
    for name, row in (("round 1, without the switch", "baseline"), ("with the adapter", "trained")):
        rates = " | ".join(f"{scores[row][mode][what]:.1%}" for what in ("think", "accuracy") for mode in ("on", "off"))
        assert f"| {name} | {rates} |" in readme
    assert scores["trained"]["on"]["think"] >= 0.95 and scores["trained"]["off"]["think"] <= 0.05


def test_results(trained: Repo) -> None:
    folder = trained.run_dir() / "results"
    result = json.loads((folder / "results.json").read_text())
    assert (result["model"], result["round"], result["steps"], result["links"]) == ("mini", "1", 60, 1)
    assert result["baseline"]["n"] == result["averaged"]["n"] == 300
    assert result["stages"].keys() == {"data", "model", "train", "convert", "average", "eval"}
    assert all(cost["seconds"] >= 0 and cost["peak_memory_bytes"] > 1 << 20 for cost in result["stages"].values())
    assert result["data_sha256"] == trained.done(trained.work / "data/mini/round1")["outputs"]["all.jsonl"]
    assert result["final_loss"] == trained.losses()[60]
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    table = (folder / "README.md").read_text()
    assert f"| averaged | 300 | {result['averaged']['pass@1']:.1%} |" in table and "| train |" in table


def test_every_done_names_the_code(trained: Repo) -> None:
    folders = ["data/mini/round1", "models/mini"] + [
        f"runs/mini/round1/{s}" for s in ("train", "average", "eval", "results")
    ]
    for folder in [*folders, "runs/mini/round1/convert/step_60"]:
        done = trained.done(trained.work / folder)
        assert done["code"].keys() >= {"commit", "dirty"} and len(done["recipe_sha256"]) == 64, folder


def test_the_table_says_when_the_code_was_changed() -> None:
    score = {"n": 1, "pass@1": 1.0, "no_answer": 0.0, "truncated": 0.0}
    result = {
        "model": "m", "round": "1", "code": {"commit": "c" * 40, "dirty": True},
        "recipe_sha256": "r", "data_sha256": "d",
        "steps": 1, "links": 1, "final_loss": 1.0, "baseline": score, "averaged": score,
        "stages": {"data": {"seconds": 1.0, "peak_memory_bytes": 1 << 20}},
    }  # fmt: skip
    assert "with uncommitted changes" in results.table(result)
