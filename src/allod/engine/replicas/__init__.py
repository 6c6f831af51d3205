"""Replicas: engines that are started, watched, and started again.

replica.py  one engine process under the seal               health.py  whether it is still of use
passing.py  long work of one's own, beside what somebody waits for
"""
