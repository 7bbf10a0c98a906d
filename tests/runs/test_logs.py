"""make logs: what it picks from the logs of each engine, here written by hand in their forms."""

import json
from pathlib import Path

from conftest import Repo, ok
from sft.watch.lines import matter

AUTOMODEL = """\
W1127 02:50:53.996000 13970 torch/utils/_pytree.py:630] <enum 'X'> is an Enum subclass and is now natively supported
2026-11-27 02:50:58 | WARNING | root | save_consolidated=every but v4_compatible=False
2026-11-27 02:50:59 | INFO | root | step 7 | epoch 1 | loss 4.4 | tps 9801.85
[02:51:06] train: step 8/60, loss 4.5924, lr 1.00e-05, 9 s left
[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.
[rank0]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.00 GiB.
"""
JOB = """\
[02:51:09] train: the last complete checkpoint is step 5 of 60
error: training stopped at step 5 of 60 (status 1); see its log, then run it again
"""
DRIVER = """\
  SETUP COMPLETE
========================= Step 1/60 =========================
  • Loss: 2.5000
  • Total step time: 3.00s
========================= Step 2/60 =========================
(Worker pid=12, ip=10.0.0.1) UserWarning: grad norm is large at step 2
  • Loss: 2.2500
  • Total step time: 2.00s
ray.exceptions.RayTaskError: ValueError: no such shape
"""


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content)


def test_nothing_has_begun(repo: Repo) -> None:
    assert "no link of this run has begun" in ok(repo.call("make", "-s", "logs", "MODEL=mini"))
    assert not repo.work.exists()


def test_a_torchrun_link(repo: Repo) -> None:
    """The last of two links, by the time in its name; what two ranks say alike is one line."""
    train = repo.run_dir() / "train"
    logs = {"9-0-20261127T025034.log": AUTOMODEL, "10-0-20261127T015034.log": "error: of the link before"}
    write(train / "logs", **logs)
    write(repo.run_dir() / "logs", **{"train-9.out": JOB, "train-10.out": "error: of the job before"})
    rows = [{"step": i, "loss": 5 - i / 10, "tps": 9000.0 + i, "timestamp": 1000.0 + 2 * i} for i in range(8)]
    write(train / "checkpoints", **{"training.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    (train / "checkpoints/epoch_0_step_4").mkdir()
    out = ok(repo.call("make", "-s", "logs", "MODEL=mini"))
    lines = out.splitlines()
    at = lines.index("errors:")
    assert (
        lines[at + 1] == "  [rank0]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.00 GiB. (2 times)"
    )
    assert lines[at + 2] == f"  {JOB.splitlines()[1]}" and "before" not in out
    assert lines[at + 3] == "warnings:" and lines[at + 4].endswith("v4_compatible=False") and "Enum" not in out
    assert lines[at + 6].split() == ["step", "loss", "tokens/s", "seconds"]
    assert [line.split() for line in lines[at + 7 : at + 12]] == [
        [str(i + 1), f"{5 - i / 10:.4f}", f"{9000 + i:,}", "2.00"] for i in range(3, 8)
    ]
    assert f"saved: step 5, {train}/checkpoints/epoch_0_step_4" in out
    assert lines[-1] == f"ended: {JOB.splitlines()[1]}"


def test_a_nemo_rl_link(repo: Repo) -> None:
    train = repo.run_dir("mega") / "train"
    link = {"driver.log": DRIVER, "node-0.log": "", "failed": "ValueError: no such shape\n"}
    write(train / "logs/7-0", LINK=json.dumps({"started": 2, "from": 0}), **link)
    write(train / "logs/6-0", LINK=json.dumps({"started": 1, "from": 0}), **{"driver.log": "error: before"})
    out = ok(repo.call("make", "-s", "logs", "MODEL=mega"))
    assert "  ray.exceptions.RayTaskError: ValueError: no such shape\n" in out and "before" not in out
    assert "  UserWarning: grad norm is large at step 2\n" in out
    assert "\n1     2.5000         -  3.00\n2     2.2500         -  2.00\n" in out
    assert "saved: nothing\nended: ValueError: no such shape\n" in out


def test_the_last_lines_of_a_kind_are_kept() -> None:
    words = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "alpha")
    errors, warnings = matter(f"error: {word} {i}" for i, word in enumerate(words))
    assert errors == [
        "error: gamma 2", "error: delta 3", "error: epsilon 4", "error: zeta 5", "error: alpha 6 (2 times)",
    ]  # fmt: skip
    assert warnings == []
