"""Profiles: which system calls a sealed process has.

profile.py  what a profile is, and the filter that it comes to
sealed.py   one process that answers on Unix stream sockets
island.py   a group of processes that reach one another by loopback
accelerated.py  an island that may ask accelerators' drivers
"""
