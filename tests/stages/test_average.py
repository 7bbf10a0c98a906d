"""Convert and average: what comes out is right, and what is broken is refused."""

import json
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_convert import BROKEN, rewrite, step_file, weights

import average
from conftest import ROOT, Repo, failed, heed_ctrl_c, ok
from sft.lib.errors import Failure
from sft.lib.files import sha256
from sft.model import mean as model_mean
from sft.model.mean import CHUNK

sys.path.insert(0, str(ROOT / "tests" / "bench"))

from measure import measure


def test_the_average_is_the_float32_mean_rounded_once(trained: Repo) -> None:
    folders = [trained.run_dir() / "convert" / f"step_{s}" for s in (40, 50, 60)]
    mean, parts = weights(trained.run_dir() / "average"), [weights(folder) for folder in folders]
    for name, tensor in mean.items():
        assert torch.equal(tensor, (parts[0][name] + parts[1][name] + parts[2][name]) / 3), name
    index = json.loads((trained.run_dir() / "average/model.safetensors.index.json").read_text())
    assert [Path(f).name for f in index["metadata"]["averaged_from"]] == ["step_40", "step_50", "step_60"]
    assert index["weight_map"].keys() == mean.keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_shards_and_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    """Two shards, three models of random values, a scalar and an empty tensor among them."""
    generator = torch.Generator().manual_seed(0)
    for m in range(3):
        folder = tmp_path / f"m{m}"
        folder.mkdir()
        shards = {
            "model-00001-of-00002.safetensors": {"a": (7, 5), "b": ()},
            "model-00002-of-00002.safetensors": {"c": (3,), "empty": (0, 4)},
        }
        for file, tensors in shards.items():
            made = {n: torch.randn(s, generator=generator).to(dtype) for n, s in tensors.items()}
            save_file(made, folder / file, metadata={"format": "pt"})
        weight_map = {name: file for file, tensors in shards.items() for name in tensors}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        (folder / "config.json").write_text("{}")
    target = tmp_path / "mean"
    target.mkdir()
    average.average([tmp_path / f"m{m}" for m in range(3)], target)
    for file in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        parts = [load_file(tmp_path / f"m{m}" / file) for m in range(3)]
        for name, tensor in load_file(target / file).items():
            wanted = ((parts[0][name].float() + parts[1][name].float() + parts[2][name].float()) / 3).to(dtype)
            assert tensor.dtype == dtype and torch.equal(tensor, wanted), name


def test_integers_have_no_mean(tmp_path: Path) -> None:
    for m in ("m0", "m1"):
        (tmp_path / m).mkdir()
        save_file({"q": torch.ones(3, dtype=torch.int8)}, tmp_path / m / "model.safetensors")
    with pytest.raises(Failure, match="I8, which has no mean"):
        average.check_alike([tmp_path / "m0", tmp_path / "m1"])


@pytest.mark.parametrize("dtype", ["bool", "int64", "float8_e4m3fn", "float64"])
def test_other_dtypes_are_refused(dtype: str, tmp_path: Path) -> None:
    save_shards(tmp_path / "m0", {"a": torch.ones(3), "q": torch.ones(3).to(getattr(torch, dtype))}, 1)
    with pytest.raises(Failure, match=r"tensor q is (BOOL|I64|F8_E4M3|F64), which has no mean here; average F32, F16"):
        average.check_alike([tmp_path / "m0"])


# Bits of numbers whose mean is hard: subnormals, large ones whose sum is still finite, both zeros, and neighbours
# whose mean is a tie.
AWKWARD = {
    torch.bfloat16: (torch.int16, (0x0001, 0x0003, 0x007F, 0x0080, 0x7E00, 0x3F80, 0x3F81, 0x3F82, 0x3F83, 0x0000)),
    torch.float16: (torch.int16, (0x0001, 0x0003, 0x03FF, 0x0400, 0x7BFF, 0x3C00, 0x3C01, 0x3C02, 0x3C03, 0x0000)),
    torch.float32: (torch.int32, (0x00000001, 0x00000003, 0x007FFFFF, 0x00800000, 0x7DFFFFFF, 0x3F800001, 0x00000000)),
}


def awkward(dtype: torch.dtype, count: int, generator: torch.Generator) -> torch.Tensor:
    bits, values = AWKWARD[dtype]
    which = torch.randint(len(values), (count,), generator=generator)
    made = torch.tensor(values, dtype=bits)[which].view(dtype)
    made = torch.where(torch.rand(count, generator=generator) < 0.3, torch.randn(count, generator=generator), made)
    sign = torch.randint(2, (count,), generator=generator) * 2 - 1
    return (made * sign).to(dtype)


def save_shards(folder: Path, tensors: dict[str, torch.Tensor], count: int) -> None:
    """Every count-th tensor to the same file; one file has no index."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    if count == 1:
        return save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    files = {name: f"model-{n % count + 1:05d}-of-{count:05d}.safetensors" for n, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({n: t for n, t in tensors.items() if files[n] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def reference(parts: list[torch.Tensor]) -> torch.Tensor:
    total = parts[0].to(torch.float32, copy=True)
    for part in parts[1:]:
        total += part
    total /= len(parts)
    return total.to(parts[0].dtype)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("chunk", [1, 3, 32, CHUNK])
@pytest.mark.parametrize("dtype", AWKWARD)
def test_bits_are_those_of_torch_wherever_it_is_cut(
    dtype: torch.dtype, chunk: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another number of shards in each model, tensors of odd lengths across the cuts, and one of another dtype."""
    monkeypatch.setattr(model_mean, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(count)
    sizes = {"a": 257, "b": 1, "c": 3, "d": 64, "e": 33, "f": 5}
    models = []
    for m in range(count):
        models.append({name: awkward(dtype, size, generator) for name, size in sizes.items()})
        other = torch.float32 if dtype != torch.float32 else torch.bfloat16
        models[-1]["bb"] = torch.randn(7, generator=generator).to(other)
        save_shards(tmp_path / f"m{m}", models[-1], m % 3 + 1)
    target = tmp_path / "mean"
    target.mkdir()
    digests = average.average([tmp_path / f"m{m}" for m in range(count)], target, workers=2)
    made = weights(target)
    assert made.keys() == models[0].keys()
    for name, tensor in made.items():
        wanted = reference([model[name] for model in models])
        assert tensor.dtype == wanted.dtype
        assert torch.equal(tensor.view(torch.uint8), wanted.view(torch.uint8)), name
    assert digests == {path.name: sha256(path) for path in target.glob("*.safetensors")}
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in made.values()), "of tensors, not of files"
    assert {p.name for p in target.glob("*.safetensors")} == {p.name for p in (tmp_path / "m0").glob("*.safetensors")}


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("dtype", AWKWARD)
def test_what_is_not_finite_is_named(
    dtype: torch.dtype, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_mean, "CHUNK", 6)
    for m in range(2):
        tensors = {name: torch.ones(33, dtype=dtype) for name in "abc"}
        if m:
            tensors["b"][17] = value
        save_shards(tmp_path / f"m{m}", tensors, 1)
    (tmp_path / "mean").mkdir()
    with pytest.raises(Failure, match="the mean of tensor b is not finite"):
        average.average([tmp_path / "m0", tmp_path / "m1"], tmp_path / "mean")


def test_a_sum_beyond_float32_is_named(tmp_path: Path) -> None:
    for m in range(2):
        save_shards(tmp_path / f"m{m}", {"big": torch.full((9,), 3e38)}, 1)
    (tmp_path / "mean").mkdir()
    with pytest.raises(Failure, match="the mean of tensor big is not finite"):
        average.average([tmp_path / "m0", tmp_path / "m1"], tmp_path / "mean")


def test_a_quantised_model_has_no_mean(tmp_path: Path) -> None:
    for m in ("m0", "m1"):
        save_shards(tmp_path / m, {"a": torch.ones(3)}, 1)
    (tmp_path / "m1/config.json").write_text('{"quantization_config": {"quant_method": "fp8"}}')
    with pytest.raises(Failure, match=r"m1 is quantised .*; average unquantised models"):
        average.check_alike([tmp_path / "m0", tmp_path / "m1"])


def sparse(folder: Path, megabytes: int) -> Path:
    """A model of one bfloat16 tensor of zeros that takes no room on the disk."""
    folder.mkdir()
    size = megabytes << 20
    header = json.dumps({"w": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    return folder


def test_memory_is_that_of_the_buffers(tmp_path: Path) -> None:
    """One tensor of 200 MiB in two models: with the processes' own memory, pages of files counted, less than it."""
    models = [sparse(tmp_path / name, 200) for name in ("m0", "m1")]
    command = [sys.executable, ROOT / "python/average.py", "--workers", 2, "--of", *models, "--to", tmp_path / "mean"]
    usage = measure(list(map(str, command)), log=tmp_path / "log")
    assert (tmp_path / "mean/model.safetensors").stat().st_size > 200 << 20
    assert usage.rss < 180 << 20


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    models = [sparse(tmp_path / name, 4000) for name in ("m0", "m1")]
    command = [sys.executable, ROOT / "python/average.py", "--of", *models, "--to", tmp_path / "mean"]
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed_ctrl_c
    )
    while not list(tmp_path.glob(".mean.part/*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == "error: interrupted; run the same command again to go on\n"
    assert {p.name for p in tmp_path.iterdir()} == {"m0", "m1"}


@pytest.mark.parametrize("what", BROKEN)
def test_average_refuses_a_broken_step(what: str, finished: Repo) -> None:
    shutil.rmtree(finished.run_dir() / "average")
    change, words = BROKEN[what]
    rewrite(step_file(finished), change)
    failed(finished.stage("average"), words)
    assert not [p for p in finished.run_dir().iterdir() if "average" in p.name and p.suffix != ".lock"], "half-written"


def test_average_refuses_a_truncated_or_missing_step(finished: Repo) -> None:
    shutil.rmtree(finished.run_dir() / "average")
    file = step_file(finished)
    file.write_bytes(file.read_bytes()[:-1])
    failed(finished.stage("average"), str(file), "truncated")
    shutil.rmtree(file.parent)
    failed(finished.stage("average"), "step_50 is not finished", "make convert")
    failed(finished.call("scripts/submit.sh", "average", "mini", "1"), "step 50 is not converted", "make convert")
    assert not [p for p in finished.run_dir().iterdir() if "average" in p.name and p.suffix != ".lock"], "half-written"


@pytest.mark.slow
def test_a_rerun_skips_and_another_recipe_is_refused(finished: Repo) -> None:
    out = ok(finished.call("scripts/submit.sh", "train", "mini", "1"))
    for words in (
        "already at the last step",
        "step 50 is already there",
        "average is already there",
        "eval is already there",
    ):
        assert words in out, words
    finished.edit("recipes/mini/round1.env", "=40,50,60", "=50,60")
    ok(finished.stage("convert"))
    failed(finished.stage("average"), "AVERAGE_STEPS was 40,50,60, is now 50,60")
    finished.edit("recipes/mini/mini.env", "\nLR=1e-3", "\nLR=2e-3")
    failed(finished.call("scripts/submit.sh", "train", "mini", "1"), "LR: 1e-3, now 2e-3")


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_written(finished: Repo, small_disk: Path) -> None:
    """convert/ and average/ on a file system that holds one model of half a megabyte, but not three."""
    run = finished.run_dir()
    for name in ("convert", "average"):
        shutil.rmtree(run / name)
    (run / "convert").mkdir()
    subprocess.run(["mount", "--bind", small_disk, run / "convert"], check=True)
    try:
        (run / "convert/ballast").write_bytes(b"x" * 900_000)
        failed(finished.stage("convert"), "no space left")
        assert [p.name for p in (run / "convert").iterdir()] == ["ballast"]
    finally:
        subprocess.run(["umount", run / "convert"], check=True)
    ok(finished.stage("convert"))
    target = small_disk / "mean"
    (small_disk / "ballast").write_bytes(b"x" * 900_000)
    of = [run / "convert" / f"step_{s}" for s in (40, 50, 60)]
    failed(finished.python("average", "--of", *of, "--to", target), "no space left")
    assert [p.name for p in small_disk.iterdir()] == ["ballast"]


# --- exactly these steps, and removing them ----------------------------------------------------------------------


@pytest.mark.slow
def test_averaged_steps_are_removed_on_request_and_not_missed(finished: Repo) -> None:
    """The average is there when it is asked for first; a new one is in the next test."""
    run = finished.run_dir()
    (run / "convert/step_400").mkdir()
    checkpoints = sorted(p for p in (run / "train").rglob("*") if p.is_file())
    failed(finished.call("scripts/submit.sh", "average", "mini", "1", REMOVE_AFTER_AVERAGE="yes"), "give 1")
    out = ok(finished.call("scripts/submit.sh", "average", "mini", "1", REMOVE_AFTER_AVERAGE="1"))
    lines = [line for line in out.splitlines() if "removed" in line]
    assert len(lines) == 1 and "read back from the disk as written; removed step_40, step_50, step_60" in lines[0]
    assert [p.name for p in (run / "convert").iterdir()] == ["step_400"]
    assert sorted(p for p in (run / "train").rglob("*") if p.is_file()) == checkpoints

    assert "average is already there" in ok(finished.call("scripts/submit.sh", "average", "mini", "1"))
    out = ok(finished.call("scripts/submit.sh", "train", "mini", "1", REMOVE_AFTER_AVERAGE="1"))
    for words in ("step 50 is averaged and was removed", "average is already there", "eval is already there"):
        assert words in out, words
    shutil.rmtree(run / "results")
    ok(finished.call("scripts/submit.sh", "results", "mini", "1"))
    status = ok(finished.call("scripts/tool.sh", "status", "mini", "1"))
    assert "3/3 steps" in status

    ok(finished.stage("convert", "mini", "--step", 50, "--again"))
    assert (run / "convert/step_50/DONE").is_file()
    assert "average is already there" in ok(finished.stage("average"))
    shutil.rmtree(run / "average")
    failed(finished.call("scripts/submit.sh", "average", "mini", "1"), "step 40 is not converted")
    ok(finished.stage("convert"))
    assert {p.name for p in (run / "convert").iterdir()} == {"step_40", "step_50", "step_60", "step_400"}


@pytest.mark.slow
def test_removed_steps_of_another_training_are_made_anew(finished: Repo) -> None:
    run = finished.run_dir()
    shutil.rmtree(run / "average")
    out = ok(finished.stage("average", "mini", "--remove-inputs"))
    assert "average, verified" in out and out.count("; removed step_40") == 1 and not list((run / "convert").iterdir())
    (run / "train/DONE").unlink()
    ok(finished.stage("train", "mini", "--check"))  # writes DONE anew
    ok(finished.stage("convert"))
    assert all((run / f"convert/step_{step}/DONE").is_file() for step in (40, 50, 60))


@pytest.mark.parametrize("what", ["changed", "missing"])
def test_nothing_is_removed_when_the_average_is_not_as_written(what: str, finished: Repo) -> None:
    run = finished.run_dir()
    file = next((run / "average").glob("*.safetensors"))
    if what == "changed":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    failed(finished.stage("average", "mini", "--remove-inputs"), str(file), "no step was removed")
    assert {p.name for p in (run / "convert").iterdir()} == {"step_40", "step_50", "step_60"}
    assert all(list((run / f"convert/step_{step}").glob("*.safetensors")) for step in (40, 50, 60))
    assert not (run / "average/REMOVED").exists()
