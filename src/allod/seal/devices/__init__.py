"""Accelerators under the seal: which there are, what of them an island is given, and why a driver says no.

survey.py      what driver and kernel say of the NVIDIA GPUs of this machine, read from files
grants.py      the nodes, files and settings that chosen ones come to
obstacles.py   what is wrong with a machine, in a sentence with what to do
choosing.py    the grants for what somebody asked for, or the first obstacle
attempts.py    each grant tried, inside an island that has them                  (lab/device_trial.py)
"""
