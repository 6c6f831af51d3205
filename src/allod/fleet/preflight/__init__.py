"""The preflight: whether a run may begin at a site.

checks.py      what is asked for against what was found: pure    job.py         facts, gathered where the run will be
probe.py       the program that finds them, on every rank        all_reduce.py  how fast ranks add up gradients
egress.py      which addresses can be reached from there  gpu.py        torch and NCCL under the seal, on GPUs
torch_gpu.py   a product of matrices on a GPU, checked
"""
