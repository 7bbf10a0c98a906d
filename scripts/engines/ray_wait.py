"""Wait until every node of a Ray cluster has joined with all of its GPUs. Runs where Ray is: in the engine's image.

    python ray_wait.py --address 10.0.0.1:9900 --nodes 64 --gpus 512 --folder LOGS --timeout 1800

Prints who is there as it grows. Ends with status 1 and the reason in LOGS/failed at the time limit, or when another
node has written there why it cannot join.
"""

import argparse
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", required=True, help="of the head")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True, help="of all nodes together")
    parser.add_argument("--folder", type=Path, required=True, help="where `failed` is read and written")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds")
    args = parser.parse_args()
    import ray

    ray.init(address=args.address, logging_level="ERROR", log_to_driver=False)
    deadline, before = time.time() + args.timeout, None
    while True:
        alive = [node for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(node["Resources"].get("GPU", 0) for node in alive))
        if (len(alive), gpus) != before:
            before = (len(alive), gpus)
            print(f"ray: {len(alive)} of {args.nodes} nodes with {gpus} of {args.gpus} GPUs", flush=True)
        if len(alive) >= args.nodes and gpus >= args.gpus:
            return 0
        if (args.folder / "failed").exists():
            return 1
        if time.time() >= deadline:
            hosts = " ".join(sorted(node["NodeManagerHostname"] for node in alive))
            reason = f"{len(alive)} of {args.nodes} nodes with {gpus} of {args.gpus} GPUs after {args.timeout:.0f} s"
            (args.folder / "failed").write_text(f"Ray did not come up: {reason} (there: {hosts}); see node-*.log\n")
            return 1
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
