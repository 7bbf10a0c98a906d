"""The stand-in for NeMo-RL is compared with what NeMo-RL itself wrote and printed (traces/, by make check-nemo-rl); and
what makes NeMo-RL run on a CPU."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import test_ray
from nemo_rl_trace import describe, pattern

from conftest import ROOT, Repo, failed
from sft.engines.nemo_rl import driver_log

TRACE = json.loads((ROOT / "tests/traces/nemo-rl-v0.7.0.json").read_text(encoding="utf-8"))
STANDIN = ROOT / "tests/standin/nemo-rl"
INSIDE = ROOT / "python/sft/engines/nemo_rl/inside"
# What the stand-in prints of its own, for the tests that use it.
OWN = ("places:", "RuntimeError: STANDIN_EXIT", "worker at step N")


def words(node: ast.expr) -> str:
    """What print(node) writes, with 0 for every value."""
    match node:
        case ast.Constant():
            return str(node.value)
        case ast.JoinedStr():
            return "".join(map(words, node.values))
        case ast.FormattedValue():
            return words(node.value) if isinstance(node.value, ast.BinOp) else "0"
        case ast.BinOp(left=ast.Constant(value=str() as text), op=ast.Mult(), right=ast.Constant(value=times)):
            return text * times
        case ast.BinOp(op=ast.Add()):
            return words(node.left) + words(node.right)
    return "0"


def printed(source: str) -> list[str]:
    """The lines that a program's calls of print write, as patterns."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    texts = [words(call.args[0]) for call in calls if getattr(call.func, "id", "") == "print"]
    return [pattern(line) for text in texts for line in text.splitlines() if line]


def test_what_print_writes_is_read_from_the_program() -> None:
    assert printed("print(f\"\\n{'=' * 3} Step {a + 1}/{b}\")") == ["=== Step N/N"]
    assert printed('print("  • Loss: " + "x")\nprint(f"{took:.2f}s (10.0%)", flush=True)') == ["  • Loss: x", "Ns (N%)"]


def test_every_line_of_the_stand_in_is_one_of_nemo_rl() -> None:
    lines = printed((STANDIN / "examples/run_sft.py").read_text(encoding="utf-8"))
    assert len(lines) > 10 and "========================= Step N/N =========================" in lines
    known = TRACE["rounds"]["1"]["log"]["patterns"]
    assert [line for line in lines if line not in known and not line.startswith(OWN)] == []


@pytest.mark.parametrize("round_", ["1", "fsdp"])
def test_the_parser_reads_what_nemo_rl_printed(round_: str) -> None:
    facts = TRACE["rounds"][round_]
    parser, rows = driver_log.Parser(0), []
    for line in facts["log"]["first_steps"]:
        if row := parser.feed(line):
            rows.append(row)
    rows.append(parser.rest())
    assert [(row["step"], row["loss"]) for row in rows] == list(enumerate(facts["losses"]))
    assert len(rows) == 12 and all(row["seconds"] > 0 for row in rows)


def test_both_backends_began_where_transformers_does() -> None:
    """The loss of the base model on the 1,165 tokens of the first step by transformers, float32, each row alone."""
    assert [TRACE["rounds"][round_]["losses"][0] for round_ in ("1", "fsdp")] == [6.2978, 6.2978]


def without_rank(name: str) -> str:
    """A file's name without which rank and thread wrote it."""
    return "iter_0000000/RANK.distcp" if name.endswith(".distcp") else name


@pytest.mark.slow
def test_every_file_of_the_stand_in_is_one_of_nemo_rl(mega: Repo, tmp_path: Path) -> None:
    """A checkpoint as the stand-in saves it: no file that NeMo-RL's has not, none of another kind or key."""
    env = os.environ | {
        "PYTHONPATH": f"{ROOT}/python/sft/engines/nemo_rl/inside",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        test_ray.STANDIN / "bin/python",
        ROOT / "tests/engines/standin_save.py",
        mega.work / "models/mega",
        tmp_path,
    ]
    subprocess.run(command, env=env, check=True, timeout=300)
    real = {without_rank(name): fact for name, fact in TRACE["rounds"]["1"]["checkpoint"].items()}
    ours = {without_rank(name): fact for name, fact in describe(tmp_path / "step_3").items()}
    real = {name.removeprefix("policy/weights/"): fact for name, fact in real.items()}
    ours = {name.removeprefix("policy/weights/"): fact for name, fact in ours.items()}
    assert set(ours) - set(real) == set()
    assert {name: fact["kind"] for name, fact in ours.items()} == {name: real[name]["kind"] for name in ours}
    for name, fact in ours.items():
        assert set(fact.get("keys", [])) <= set(real[name].get("keys", [])), name
    assert ours["training_info.json"]["keys"] == real["training_info.json"]["keys"]


CPU = """
import nemo_rl_cpu, torch, torch.distributed as dist
gpu = torch.device("cuda", 0)
made = [torch.zeros(2, device="cuda"), torch.empty_like(torch.ones(2), device=gpu), torch.tensor([1.0], device=0)]
made += [torch.ones(2).to("cuda"), torch.ones(2).to(gpu, torch.bfloat16), torch.ones(2).cuda()]
assert {tensor.device.type for tensor in made} == {"cpu"} and made[4].dtype == torch.bfloat16
assert torch.nn.Linear(2, 2).to("cuda:0").weight.device.type == "cpu"
with torch.device("meta"):  # else transformers leaves RoPE's frequencies as they lie in memory
    assert torch.arange(4).is_meta and torch.empty(2).is_meta
assert torch.cuda.current_device() == 0 and made[0].type() == "torch.cuda.FloatTensor"
with torch.cuda.stream(torch.cuda.Stream()):
    torch.cuda.synchronize()
dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
assert dist.get_backend() == dist.get_backend(dist.new_group([0], backend="nccl")) == "gloo"
dist.destroy_process_group()
print("all of it")
"""


def python(program: str, *folders: Path) -> str:
    env = os.environ | {"PYTHONPATH": ":".join(map(str, folders))}
    result = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


def test_what_names_a_gpu_is_given_the_cpu() -> None:
    assert python(CPU, INSIDE) == "all of it"


def test_only_a_process_that_imports_nemo_rl_is_changed(tmp_path: Path) -> None:
    (tmp_path / "nemo_rl").mkdir()
    (tmp_path / "nemo_rl/__init__.py").write_text("import sys\nFIRST = 'nemo_rl_cpu' in sys.modules\n")
    program = "import sys; print('torch' in sys.modules); import nemo_rl; print(nemo_rl.FIRST)"
    assert python(program, INSIDE / "cpu", INSIDE, tmp_path) == "False\nTrue"


def checkout(folder: Path, minor: int) -> Path:
    for name, text in {
        "examples/run_sft.py": "",
        "nemo_rl/package_info.py": f"MAJOR = 0\nMINOR = {minor}\nPATCH = 0\n",
    }.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    return folder


def test_the_check_asks_for_a_checkout_of_the_version(repo: Repo, tmp_path: Path) -> None:
    repo.env.pop("NEMO_RL_DIR", None)
    words = "git clone --depth 1 --branch v0.7.0"
    failed(repo.call("scripts/check-nemo-rl.sh"), "NEMO_RL_DIR is not set; get NeMo-RL by", words, status=(2,))
    result = repo.call("scripts/check-nemo-rl.sh", NEMO_RL_DIR=tmp_path)
    failed(result, f"NEMO_RL_DIR={tmp_path} is not a checkout of NeMo-RL", words, status=(2,))
    result = repo.call("scripts/check-nemo-rl.sh", NEMO_RL_DIR=checkout(tmp_path / "old", 6))
    failed(result, "is NeMo-RL 0.6.0, not 0.7", words, status=(2,))
