"""Time averaging four checkpoints against the upstream algorithm and against plain copies, side by side.

    python tests/bench/average_bench.py FOLDER [--mb 3087] [--times 3]

Four bfloat16 checkpoints with the tensors of Qwen2.5-1.5B, in four shards each, are generated once. Each contestant is
a process of its own, start-up included, and runs --times times in turn with the others: with the inputs in the page
cache, and with nothing in it. No earlier writes are waiting. The bench fails unless ours is bit for bit the upstream
algorithm's average. Ours hashes its output as well.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import statistics
import struct
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "python"))

from data_bench import hardware
from measure import Usage, measure

from sft.lib import errors
from sft.lib.done import code_identity
from sft.lib.errors import Failure
from sft.lib.files import write_json
from sft.lib.progress import log, ratio
from sft.model.mean import read_offsets

HERE = Path(__file__).parent
FULL = 3087  # MB of a checkpoint at the size of Qwen2.5-1.5B
STEPS = (250, 300, 350, 400)
SHARDS = 4
UPSTREAM, OURS, PLAIN = "upstream algorithm", "average.py", "plain copies"
POOL = 1 << 24  # random values, of which tensors take slices: making 1.5 billion of them anew takes minutes


@dataclass
class Run:
    what: str
    cached: bool
    usage: Usage


def shapes(mb: float) -> dict[str, tuple[int, ...]]:
    """The tensors of Qwen2.5-1.5B, or of a model of its 28 layers that is as much narrower as it takes to have `mb`."""
    scale = min(1.0, (mb / FULL) ** 0.5)
    vocab, hidden, kv, inner = (max(8, round(n * scale / 8) * 8) for n in (151936, 1536, 256, 8960))
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for layer in range(28):
        for name, rows in (("q", hidden), ("k", kv), ("v", kv)):
            found[f"model.layers.{layer}.self_attn.{name}_proj.weight"] = (rows, hidden)
            found[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = (rows,)
        found[f"model.layers.{layer}.self_attn.o_proj.weight"] = (hidden, hidden)
        for name, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
            found[f"model.layers.{layer}.mlp.{name}_proj.weight"] = shape
        for name in ("input", "post_attention"):
            found[f"model.layers.{layer}.{name}_layernorm.weight"] = (hidden,)
    return dict(sorted(found.items()))


def generate(folder: Path, mb: float, seed: int = 0) -> None:
    """Checkpoints `folder`/step_<S>: one normal distribution, and of each step a small one on top of it."""
    import numpy as np

    random = np.random.default_rng(seed)
    pool = random.standard_normal(POOL, np.float32)
    tensors = shapes(mb)
    sizes = {name: int(np.prod(shape)) for name, shape in tensors.items()}
    shards: list[dict[str, int]] = [{}]
    for name, size in sizes.items():
        if sum(shards[-1].values()) >= sum(sizes.values()) / SHARDS:
            shards.append({})
        shards[-1][name] = size
    starts = {name: int(random.integers(POOL)) for name in tensors}
    for step in STEPS:
        target = folder / f"step_{step}"
        target.mkdir(parents=True)
        files: dict[str, str] = {}
        for number, shard in enumerate(shards, 1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            header, end = {"__metadata__": {"format": "pt"}}, 0
            for name, size in shard.items():
                offsets = [end, end + 2 * size]
                header[name] = {"dtype": "BF16", "shape": list(tensors[name]), "data_offsets": offsets}
                end += 2 * size
                files[name] = file
            text = json.dumps(header).encode()
            text += b" " * (-len(text) % 8)
            with open(target / file, "wb") as out:
                out.write(struct.pack("<Q", len(text)) + text)
                for name, size in shard.items():
                    shift = int(random.integers(POOL))
                    for done in range(0, size, 1 << 20):
                        count = min(1 << 20, size - done)
                        at = (np.array((starts[name], shift)) + done) % (POOL - (1 << 20))
                        values = 0.02 * pool[at[0] : at[0] + count] + 0.0005 * pool[at[1] : at[1] + count]
                        out.write((values.view(np.uint32) >> 16).astype(np.uint16))
        index = {"metadata": {"total_size": 2 * sum(sizes.values())}, "weight_map": files}
        write_json(target / "model.safetensors.index.json", index)
        write_json(target / "config.json", {"tie_word_embeddings": True})


def digests(folder: Path) -> dict[str, str]:
    """Tensor -> hash of its bytes."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        offsets = read_offsets(path)
        names = sorted(offsets, key=lambda name: offsets[name])
        ends = [offsets[name] for name in names[1:]] + [path.stat().st_size]
        with open(path, "rb") as file:
            for name, end in zip(names, ends, strict=True):
                file.seek(offsets[name])
                digest, left = hashlib.sha256(), end - offsets[name]
                while left:
                    block = file.read(min(left, 1 << 20))
                    digest.update(block)
                    left -= len(block)
                found[name] = digest.hexdigest()
    return found


class Bench:
    def __init__(self, folder: Path, mb: float, times: int):
        self.folder, self.source, self.times = folder, folder / f"checkpoints-{mb:g}", times
        if not self.source.is_dir():
            log(f"bench: generating {len(STEPS)} checkpoints")
            part = folder / ".checkpoints.part"
            shutil.rmtree(part, ignore_errors=True)
            generate(part, mb)
            part.rename(self.source)
        self.files = sorted(self.source.glob("*/*.safetensors"))
        self.size = sum(path.stat().st_size for path in self.files)
        self.runs: list[Run] = []
        self.dropped = ""
        self.wanted: dict[str, str] = {}

    def fill(self) -> None:
        for path in self.files:
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 23):
                    pass

    def drop(self) -> None:
        try:
            Path("/proc/sys/vm/drop_caches").write_text("3")
            self.dropped = "all of the page cache dropped (drop_caches)"
        except OSError:
            for path in self.files:
                with open(path, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self.dropped = "the inputs dropped from the page cache (posix_fadvise)"

    def run(self, what: str, cached: bool) -> None:
        target = self.folder / "mean"
        shutil.rmtree(target, ignore_errors=True)
        steps = [self.source / f"step_{step}" for step in STEPS]
        command = {
            UPSTREAM: [HERE / "upstream_average.py", self.source, target, *STEPS],
            OURS: [ROOT / "python" / "average.py", "--of", *steps, "--to", target],
            PLAIN: [HERE / "plain_copy.py", self.source, target],
        }[what]
        os.sync()
        if cached:
            self.fill()
        else:
            self.drop()
        usage = measure([sys.executable, *map(str, command)], log=self.folder / "average.log")
        log(f"bench: {what}, {'cached' if cached else 'from disk'}: {usage.seconds:.1f} s")
        self.runs.append(Run(what, cached, usage))
        if what != PLAIN and (what == OURS or not self.wanted):
            made = digests(target)
            if what == UPSTREAM:
                self.wanted = made
            elif made != self.wanted:
                differ = [name for name in self.wanted if made.get(name) != self.wanted[name]]
                raise Failure(f"{len(differ)} tensors are not the upstream algorithm's, {differ[:1]}; fix it")
        shutil.rmtree(target)

    def all(self) -> None:
        for _ in range(self.times):
            for cached in (True, False):
                for what in (UPSTREAM, OURS, PLAIN):
                    self.run(what, cached)
        log(f"bench: all {len(self.wanted)} tensors are those of the upstream algorithm, bit for bit")

    def seconds(self, what: str, cached: bool) -> float:
        return statistics.median(r.usage.seconds for r in self.runs if (r.what, r.cached) == (what, cached))

    def table(self) -> str:
        made = self.size / len(STEPS)
        lines = [
            f"{len(STEPS)} checkpoints of {made / 1e9:.2f} GB, bfloat16, {len(self.files) // len(STEPS)} shards; "
            f"median of {self.times}, least and most",
            f"{'':<20} {'inputs':<10} {'s':>6} {'least':>6} {'most':>6} {'GB/s':>6} {'peak RSS, MiB':>14} {'PSS':>6}",
        ]
        for cached in (True, False):
            for what in (UPSTREAM, OURS, PLAIN):
                usages = [r.usage for r in self.runs if (r.what, r.cached) == (what, cached)]
                least, most = (f(u.seconds for u in usages) for f in (min, max))
                rss, pss = max(u.rss for u in usages), max(u.pss for u in usages)
                taken = self.seconds(what, cached)
                lines.append(
                    f"{what:<20} {'cached' if cached else 'from disk':<10} {taken:6.1f} {least:6.1f} {most:6.1f} "
                    f"{ratio((self.size + made) / 1e9, taken, '.2f'):>6} {rss / 2**20:14,.0f} {pss / 2**20:6,.0f}"
                )
        lines.append("")
        for cached in (True, False):
            upstream, ours, plain = (self.seconds(what, cached) for what in (UPSTREAM, OURS, PLAIN))
            where = "cached" if cached else "from disk"
            lines.append(
                f"{where}: {ratio(upstream, ours, '.1f')} times as fast as the upstream algorithm; "
                f"{ratio(ours, plain, '.2f')} times what reading the inputs and writing the output plainly take"
            )
        lines.append(f"from disk: {self.dropped} before each run")
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the checkpoints and the outputs; some 16 GB at the default size")
    parser.add_argument("--mb", type=float, default=FULL, help=f"MB of a checkpoint, about (default: {FULL})")
    parser.add_argument("--times", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--save", type=Path, help="write the figures to this JSON file as well")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is measured has to end with us
    bench = Bench(args.folder, args.mb, args.times)
    bench.all()
    table = bench.table()
    print(table)
    commit = code_identity()
    print(f"{hardware()}; commit {commit['commit'][:12]}{' and changes' if commit['dirty'] else ''}")
    if args.save:
        args.save.parent.mkdir(parents=True, exist_ok=True)
        facts = {"hardware": hardware(), "code": commit, "checkpoint_bytes": bench.size // len(STEPS)}
        write_json(args.save, facts | {"runs": [asdict(r) for r in bench.runs], "table": table.splitlines()})


if __name__ == "__main__":
    errors.run(main)
