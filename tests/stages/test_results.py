"""make results: the run in one table, and what the documents copy of the committed ones."""

import json
import statistics

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


def test_the_documents_quote_the_committed_switch() -> None:
    result = json.loads((ROOT / "results/tiny-reasoning/results.json").read_text())
    document = (ROOT / "docs/reasoning.md").read_text()
    assert result["code"]["commit"][:12] in document and result["code"]["dirty"] is False
    scores = {name: result["scores"][name]["tiny-reasoning"] for name in ("baseline", "trained")}
    for name, row in (("round 1, without the switch", "baseline"), ("with the adapter", "trained")):
        rates = " | ".join(f"{scores[row][mode][what]:.1%}" for what in ("think", "accuracy") for mode in ("on", "off"))
        assert f"| {name} | {rates} |" in document
    assert scores["trained"]["on"]["think"] >= 0.95 and scores["trained"]["off"]["think"] <= 0.05


def test_the_documents_quote_the_committed_benches() -> None:
    document = (ROOT / "docs/data.md").read_text()
    data, curation, average = (
        json.loads((ROOT / f"results/bench/{name}.json").read_text()) for name in ("data", "curation", "average")
    )
    used = {(run["what"], run["round"], run["rows"]): run["usage"] for run in data["runs"]}
    for number in ("1", "2"):
        theirs, ours = (
            [used[what, number, rows]["seconds"] for rows in (19400, 97000)]
            for what in ("published script", "make data")
        )
        peak = [used["make data", number, rows]["rss"] / 2**20 for rows in (19400, 97000)]
        ratio = theirs[0] / ours[0]
        figures = f"{theirs[0]:.1f} s | {ours[0]:.1f} s | {ratio:.1f} | {peak[0]:.0f} MiB"
        assert f"| round {number}, 19,400 rows | {figures} |" in document
        further = [(b - a) / 77.6 for a, b in (theirs, ours)]
        figures = f"{further[0]:.2f} s | {further[1]:.2f} s | {further[0] / further[1]:.1f}"
        assert f"| round {number}, each further thousand rows | {figures} | {peak[1]:.0f} MiB at 97,000 |" in document
    plain, ours = (run["usage"] for run in curation["runs"][:2])
    ratio = plain["seconds"] / ours["seconds"]
    figures = f"{plain['seconds']:.1f} s | {ours['seconds']:.1f} s | {ratio:.1f} | {ours['rss'] / 2**20:.0f} MiB"
    assert f"| {figures} |" in document
    rows = {"averaging four 3.1 GB checkpoints, in the page cache": True, "the same, from the disk": False}
    for what, cached in rows.items():
        theirs, ours = (
            [run["usage"] for run in average["runs"] if (run["what"], run["cached"]) == (name, cached)]
            for name in ("upstream algorithm", "average.py")
        )
        a, b = (statistics.median(usage["seconds"] for usage in usages) for usages in (theirs, ours))
        peak = max(usage["rss"] for usage in ours) / 2**20
        assert f"| {what} | {a:.1f} s | {b:.1f} s | {a / b:.1f} | {peak:.0f} MiB |" in document


def test_results(trained: Repo) -> None:
    folder = trained.run_dir() / "results"
    result = json.loads((folder / "results.json").read_text())
    assert (result["model"], result["round"], result["steps"], result["links"]) == ("mini", "1", 60, 1)
    assert result["baseline"]["n"] == result["averaged"]["n"] == 300
    assert result["stages"].keys() == {"data", "model", "train", "convert", "average", "eval"}
    assert all(cost["seconds"] >= 0 and cost["peak_memory_bytes"] > 1 << 20 for cost in result["stages"].values())
    assert result["data_sha256"] == trained.done(trained.work / "data/mini/round1")["outputs"]["all.jsonl"]
    assert result["final_loss"] == trained.losses()[60]
    assert (result["recipe"]["LR"], result["recipe"]["AVERAGE_STEPS"]) == ("1e-3", "40,50,60")
    assert result["scored"] == {"baseline": "models/mini", "averaged": "runs/mini/round1/average"}
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
