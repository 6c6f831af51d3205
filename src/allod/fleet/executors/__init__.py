"""Ways to run a job.

local.py   on this machine, a process each
slurm.py   through Slurm's own clients
memory.py  nothing runs: each job's end is said beforehand
"""
