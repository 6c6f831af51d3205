"""The walls, and the kernel calls that they are made of.

namespaces.py  first wall: no interface, no route, no power  netlink.py   loopback, and a cable between namespaces
landlock.py    second wall: only these files                 root.py      the file system that an island sees
bpf.py         third wall: a seccomp filter's machine code   syscalls.py  the numbers of system calls
elf.py         the loader that an executable names           kernel.py    calls that Python does not offer
"""
