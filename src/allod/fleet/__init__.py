"""Machines and jobs: what a site is like, whether a run may begin there, and how it is started. Knows no models.

site.py      the machines of a site, and its rules           site_profile.py  the strict reading of its profile
jobs.py      a command as so many ranks                      script.py        its batch script for Slurm
executor.py  the port of whatever runs jobs                  executors/       this machine, Slurm, memory
waiting.py   waiting for a job                               ranks.py         torchrun, as a job needs it
leaving.py   how a process ends whose work is done           preflight/       whether a run may begin
"""
