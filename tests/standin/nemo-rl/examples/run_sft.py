"""Test double of NeMo-RL v0.7.0's examples/run_sft.py; see README.md beside examples/.

STANDIN_STEP: seconds a step takes (0.05). STANDIN_EXIT: end with this status after STANDIN_AFTER steps (1).
STANDIN_RAISE: raise this after as many, with a policy whose destructor asks Ray, as v0.7.0's does.
"""

import argparse
import json
import os
import shutil
import socket
import sys
import time
import warnings
from pathlib import Path

import ray
import ray.util.scheduling_strategies
import torch
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parent.parent))
from nemo_rl.models.megatron import community_import
from nemo_rl.utils.timer import TimeoutChecker


def load(path: str, overrides: list[str]) -> dict:
    """The configuration with Hydra's overrides in strict mode: a bare key must be there, one with + must not."""
    for name, function in {"mul": lambda *a: a[0] * a[1]}.items():
        OmegaConf.register_new_resolver(name, function, replace=True)
    config = OmegaConf.load(path)
    OmegaConf.set_struct(config, True)
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(overrides), config)
    return OmegaConf.to_container(config, resolve=True)


SAVER: community_import.Saver | None = None  # takes seconds to build


@ray.remote(num_gpus=1, num_cpus=1)  # as v0.7.0 nemo_rl/distributed/virtual_cluster.py:803
class Worker:
    """One GPU's process."""

    def place(self) -> tuple[str, str]:
        """Node and GPU that Ray has given it."""
        return socket.gethostname(), os.environ.get("CUDA_VISIBLE_DEVICES", "")

    def train(self, step: int) -> int:
        print(f"worker at step {step}", flush=True)  # Ray writes it into the driver's own lines
        return step

    def shutdown(self) -> bool:
        return True


@ray.remote(num_cpus=1)
def node_environment() -> str:
    """Made on every node while the workers hold theirs (v0.7.0 nemo_rl/utils/venvs.py:169-172)."""
    return socket.gethostname()


class Policy:
    """Holds the workers (v0.7.0 nemo_rl/models/policy/lm_policy.py:1103-1111)."""

    def __init__(self, gpus: int, nodes: int):
        self.workers = [Worker.remote() for _ in range(gpus)]
        ray.get([worker.place.remote() for worker in self.workers])
        group = ray.util.placement_group([{"CPU": 1}] * nodes, strategy="STRICT_SPREAD")
        ray.get(group.ready())
        strategies = [
            ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=n)
            for n in range(nodes)
        ]
        ray.get([node_environment.options(scheduling_strategy=strategy).remote() for strategy in strategies])
        ray.util.remove_placement_group(group)

    def __del__(self) -> None:
        ray.get([worker.shutdown.remote() for worker in self.workers])


def save(folder: Path, step: int, state: dict, config: dict) -> None:
    global SAVER
    SAVER = SAVER or community_import.Saver(config["policy"]["model_name"])
    temporary, final, old = folder / f"tmp_step_{step}", folder / f"step_{step}", folder / f"old_step_{step}"
    temporary.mkdir(parents=True, exist_ok=True)
    (temporary / "training_info.json").write_text(json.dumps(state))
    (temporary / "config.yaml").write_text(yaml.safe_dump(config))
    SAVER.write(step, temporary / "policy/weights", config["checkpointing"]["save_optimizer"])
    torch.save({"_num_yielded": state["step"]}, temporary / "train_dataloader.pt")
    if final.exists():
        final.rename(old)
        temporary.rename(final)
        shutil.rmtree(old)
    else:
        temporary.rename(final)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    args, overrides = parser.parse_known_args()
    config = load(args.config, overrides)
    ray.init(address="auto", log_to_driver=True, logging_level="ERROR")
    cluster, checkpointing = config["cluster"], config["checkpointing"]
    gpus = cluster["num_nodes"] * cluster["gpus_per_node"]
    print("\n▶ Setting up compute cluster...")
    if (there := int(ray.cluster_resources().get("GPU", 0))) != gpus:
        sys.exit(f"ValueError: the cluster has {there} GPUs, the configuration {gpus}")
    policy = Policy(gpus, cluster["num_nodes"])
    workers = policy.workers
    places = sorted(ray.get([worker.place.remote() for worker in workers]))
    print(f"  ✓ Ray cluster initialized with {cluster['num_nodes']} nodes")
    print("places:", " ".join(f"{host}/{gpu}" for host, gpu in places))

    folder = Path(checkpointing["checkpoint_dir"])
    found = [int(p.name[5:]) for p in folder.glob("step_*") if p.name[5:].isdigit()]
    last, state = max(found, default=0), {"epoch": 0, "step": 0, "total_steps": 0, "consumed_samples": 0}
    state["total_valid_tokens"] = 0.0
    if last:
        path = folder / f"step_{last}"
        state = json.loads((path / "training_info.json").read_text())
        common = path / "policy/weights/iter_0000000/common.pt"
        if not common.exists() or b"optimizer" not in common.read_bytes():
            warnings.warn(f"Optimizer state not found at {path}. Optimizer will be freshly initialized.", stacklevel=2)
    if not community_import.cached(config["policy"]["model_name"]):
        sys.exit("RuntimeError: the base model would be converted by every link")
    with open(config["data"]["train"]["data_path"], encoding="utf-8") as file:
        rows = sum(1 for _ in file)
    batch, most = config["policy"]["train_global_batch_size"], config["sft"]["max_num_steps"]
    per_epoch = rows // batch
    print("\n" + "=" * 60 + "\n" + " " * 18 + "SETUP COMPLETE\n" + "=" * 60 + "\n")

    checker = TimeoutChecker(checkpointing["checkpoint_must_save_by"])
    pace, made = float(os.environ.get("STANDIN_STEP", "0.05")), 0
    while state["total_steps"] < most:
        begun = time.time()
        current = state["total_steps"] % per_epoch
        print(f"\n{'=' * 25} Step {current + 1}/{min(per_epoch, most)} {'=' * 25}")
        ray.get([worker.train.remote(current) for worker in workers])
        time.sleep(pace)
        made += 1
        step = state["total_steps"] + 1
        timeout = checker.check_save()
        state |= {"total_steps": step, "step": step % per_epoch, "consumed_samples": step * batch}
        saving = time.time()
        if step % checkpointing["save_period"] == 0 or step == most or timeout:
            print(f"Saving checkpoint for step {step}...")
            save(folder, step, state, config)
        took = time.time() - saving
        print("\n📊 Training Results:")
        print(f"  • Loss: {2.0 / (1 + step / 10):.4f}")
        print("\n⏱️  Timing:")
        print(f"  • Total step time: {time.time() - begun:.2f}s")
        print(f"  • policy_training: {pace:.2f}s (90.0%)")
        if took > 0.001:
            print(f"  • checkpointing: {took:.2f}s (10.0%)")
        if "STANDIN_RAISE" in os.environ and made >= int(os.environ.get("STANDIN_AFTER", "1")):
            raise RuntimeError(os.environ["STANDIN_RAISE"])
        if "STANDIN_EXIT" in os.environ and made >= int(os.environ.get("STANDIN_AFTER", "1")):
            print("RuntimeError: STANDIN_EXIT", flush=True)
            os._exit(int(os.environ["STANDIN_EXIT"]))
        if timeout:
            print("Timeout has been reached, stopping training early", flush=True)
            return
    print("Max number of steps has been reached, stopping training early", flush=True)


if __name__ == "__main__":
    main()
