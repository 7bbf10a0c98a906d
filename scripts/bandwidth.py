"""One process per node: start torch, and measure an all-reduce between them. For sbatch/doctor.sbatch.

    srun --ntasks-per-node=1 python scripts/bandwidth.py gloo

Rank and size are Slurm's; MASTER_ADDR and MASTER_PORT say where they meet. Prints a line when torch has started, and
rank 0 the rate: bytes of the tensor * 2 (n - 1) / n a second, what each of n nodes sends in a ring.
"""

import argparse
import os
import time
from datetime import timedelta

SIZE = 64 * 2**20  # bytes
TIMES = 5


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("backend", choices=("gloo", "nccl"))
    backend = arguments.parse_args().backend
    rank, size = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    import torch
    import torch.distributed as dist

    device = torch.device("cuda:0" if backend == "nccl" else "cpu")
    tensor = torch.ones(SIZE // 4, dtype=torch.float32, device=device)
    print(f"torch {torch.__version__} {backend} rank {rank}", flush=True)
    if size == 1:
        return
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    dist.all_reduce(tensor)  # connects
    if tensor[0].item() != size:
        raise SystemExit(f"error: the sum is {tensor[0].item()}, not {size}; see the network between the nodes")
    begun = time.perf_counter()
    for _ in range(TIMES):
        dist.all_reduce(tensor)
    tensor[0].item()  # waits for the device
    seconds = (time.perf_counter() - begun) / TIMES
    if rank == 0:
        print(f"bandwidth {SIZE * 2 * (size - 1) / size / seconds / 1e9:.2f} GB/s", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
