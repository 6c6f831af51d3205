"""A training in small: ranks count together, save when they are asked to stop, and go on from there.

`python counting.py UPTO [STEP_S]` under torchrun, in a folder that all ranks see.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

asked: list[int] = []
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, frame: asked.append(number))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from allod.fleet.leaving import leave  # noqa: E402

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, file = dist.get_rank(), Path("count")
count = int(file.read_text()) if file.exists() else 0
print(f"rank {rank} of {dist.get_world_size()} from {count} on {os.environ.get('SLURMD_NODENAME')}", flush=True)
while count < int(sys.argv[1]):
    stop = torch.tensor([len(asked)])
    dist.all_reduce(stop)
    if stop.item():
        break
    count += 1
    time.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 0.1)
if rank == 0:
    file.write_text(str(count))
dist.barrier()
dist.destroy_process_group()
if rank == 0 and count >= int(sys.argv[1]):
    print(f"finished {count}")
leave(0 if count >= int(sys.argv[1]) else 75)
