"""The escapes: each a few lines that try to get out, judged by the honeypot's or the victim's record alone.

every.py    all of them by name                              probe.py      what an escape is told, and its name
network.py  by every protocol                                unix.py       by Unix sockets
files.py    by what Landlock does not see                    process.py    by another process of the same user
covert.py   to an accomplice                                 backdoors.py  by io_uring and 32-bit system calls
calls.py    every system call that a profile forbids
"""
