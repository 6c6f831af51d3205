"""The perimeter: start a process that cannot reach anything, and prove it. Linux; standard library only.

    enter.py        the wrapper: enters the seal, then becomes COMMAND          (runs in the child)
    launch.py       `start(SealOptions(...)) -> SealedProcess`                  (runs in whoever starts it)
    ahead.py        a process that is started before what it will be told is known
    group.py        the PID namespace, whose processes end together
    endings.py      how a sealed process ended, in words
    evidence.py     what the kernel says of the process, read from outside
    walls/          what stands round it: namespaces, files, system calls
    profiles/       which system calls there are: `sealed` for one process, `island` for a group of them
    devices/        accelerators, and what an island is granted of them
    escapes/        the escapes, each tried against a honeypot                  (`every.py` lists them)
    lab/            where they are tried, and what came of it: `run_suite() -> SuiteReport`

Nothing is re-exported here: the wrapper imports this package between every start and its engine.
"""
