"""The perimeter: start a process that cannot reach anything, and prove it. Linux; standard library only.

    enter.py        the wrapper: enters the seal, then becomes COMMAND          (runs in the child)
    namespaces.py   first wall: no interface, no route, no power
    landlock.py     second wall: only these files
    profile.py      third wall: only these system calls   (syscalls.py: their numbers, bpf.py: the machine code):
                    profile_sealed.py for one process, profile_island.py for a group of them
    group.py        the PID namespace, whose processes end together   (root.py: the file system that an island sees)
    launch.py       `start(SealOptions(...)) -> SealedProcess`                  (runs in the gateway)
    evidence.py     what the kernel says of the process, read from outside
    escapes/        the escapes, each tried against a honeypot  (lab.py, honeypot.py, accomplice.py,
                    netlink.py: where; escapes/calls.py: every system call that is refused)
    suite.py        `run_suite() -> SuiteReport`

Nothing is re-exported here: the wrapper imports this package between every start and its engine.
"""
