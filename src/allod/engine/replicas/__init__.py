"""Replicas: engines that are started, watched, and started again; and pools of them.

pool.py       replicas of one model as one engine: which one gets a request, and what if it is lost
member.py     a replica as its pool sees it: what it works on, how it has done, and whether it is asked
choose.py     which of them a prompt is sent to             prefixes.py  who probably holds its beginning
replica.py    one engine process under the seal             health.py  whether it is still of use
stopwatch.py  how fast it has answered of late
passing.py    long work of one's own, beside what somebody waits for
"""
