"""What stands in README.md twice is what stands in results/."""

import json

from conftest import ROOT


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
