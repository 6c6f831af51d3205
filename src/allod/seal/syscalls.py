"""System calls that the profiles name, by group: `name x86_64 aarch64`, a dash where the architecture has none.

Numbers are the kernel's own (arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h).
A call named in no group is answered as by a kernel too old to know it (ENOSYS), which every C library survives.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

ALLOWED: Final = """
files already open:
  read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69, pwritev 296 70,
  lseek 8 62, close 3 57, close_range 436 436, dup 32 23, dup2 33 -, dup3 292 24, fstat 5 80, ftruncate 77 46,
  fallocate 285 47, fsync 74 82, fdatasync 75 83, fadvise64 221 223, readahead 187 213, sendfile 40 71,
  copy_file_range 326 285, pipe 22 -, pipe2 293 59
files by path, where Landlock decides:
  open 2 -, openat 257 56, creat 85 -, stat 4 -, lstat 6 -, newfstatat 262 79, statx 332 291, access 21 -,
  faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78, getdents64 217 61, getcwd 79 17,
  chdir 80 49, mkdir 83 -, mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38,
  renameat2 316 276, statfs 137 43, fstatfs 138 44, umask 95 166
memory:
  brk 12 214, mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216, madvise 28 233, msync 26 227,
  mincore 27 232, mlock 149 228, mlock2 325 284, munlock 150 229, membarrier 324 283
threads and time:
  futex 202 98, set_robust_list 273 99, get_robust_list 274 100, rseq 334 293, set_tid_address 218 96,
  arch_prctl 158 -, sched_yield 24 124, sched_getaffinity 204 123, sched_setaffinity 203 122, getcpu 309 168,
  nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169,
  time 201 -, times 100 153, timerfd_create 283 85, timerfd_settime 286 86, timerfd_gettime 287 87, eventfd 284 -,
  eventfd2 290 19, setitimer 38 103, getitimer 36 102, alarm 37 -, pause 34 -, restart_syscall 219 128,
  exit 60 93, exit_group 231 94
signals received:
  rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigtimedwait 128 137,
  rt_sigsuspend 130 133, sigaltstack 131 132, signalfd4 289 74
waiting:
  poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21,
  epoll_wait 232 -, epoll_pwait 281 22, epoll_pwait2 441 441, wait4 61 260, waitid 247 95
asking about oneself:
  getpid 39 172, getppid 110 173, gettid 186 178, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177,
  getresuid 118 148, getresgid 120 150, getgroups 115 158, getpgrp 111 -, getpgid 121 155, getsid 124 156,
  uname 63 160, sysinfo 99 179, getrandom 318 278, getrusage 98 165, getrlimit 97 163, getpriority 140 141
serving on a Unix stream socket:
  bind 49 200, listen 50 201, accept 43 202, accept4 288 242, getsockname 51 204, getpeername 52 205,
  getsockopt 55 209, setsockopt 54 208, shutdown 48 210, recvfrom 45 207, sendmsg 46 211
becoming the command:
  execve 59 221
"""

ALLOWED_BY_ARGUMENT: Final = """
one rule each in profile.py:
  socket 41 198, socketpair 53 199, sendto 44 206, clone 56 220, prctl 157 167, prlimit64 302 261, ioctl 16 29,
  fcntl 72 25, kill 62 129, tgkill 234 131
"""

REFUSED: Final = """
known, and answered with EPERM so that a log says why:
  connect 42 203, recvmsg 47 212, recvmmsg 299 243, sendmmsg 307 269, fork 57 -, vfork 58 -, ptrace 101 117,
  process_vm_readv 310 270, process_vm_writev 311 271, pidfd_open 434 434, pidfd_getfd 438 438,
  pidfd_send_signal 424 424, setns 308 268, unshare 272 97, mount 165 40, bpf 321 280, keyctl 250 219,
  userfaultfd 323 282, perf_event_open 298 241, io_uring_setup 425 425, kexec_load 246 104, execveat 322 281,
  open_by_handle_at 304 265, name_to_handle_at 303 264, symlink 88 -, symlinkat 266 36, link 86 -, linkat 265 37,
  chmod 90 -, fchmod 91 52, fchmodat 268 53, chown 92 -, fchown 93 55, fchownat 260 54, utimensat 280 88,
  setxattr 188 5, truncate 76 45, setsid 112 157, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240, tkill 200 130
"""

ISLAND_ALLOWED: Final = """
an island's own processes, which live and die in one PID namespace:
  fork 57 -, vfork 58 -, setsid 112 157, setpgid 109 154, kill 62 129, tgkill 234 131, tkill 200 130,
  sched_getscheduler 145 120, sched_getparam 143 121, sched_get_priority_max 146 125, sched_get_priority_min 147 126
talking to one another, within its own network:
  connect 42 203, sendto 44 206, recvmsg 47 212, sendmmsg 307 269, recvmmsg 299 243
files that are its own, for its root holds nothing of others that may be written:
  flock 73 32, fchdir 81 50, truncate 76 45, symlink 88 -, symlinkat 266 36, link 86 -, linkat 265 37,
  chmod 90 -, fchmod 91 52, fchmodat 268 53, utimensat 280 88
"""

MACHINES: Final = MappingProxyType({"x86_64": 0, "aarch64": 1})


def numbers(table: str, machine: str) -> dict[str, int]:
    """Name → number of every call in `table` that exists on `machine` (a key of MACHINES)."""
    lines = (line for line in table.splitlines() if not line.endswith(":"))
    entries = (entry.split() for line in lines for entry in line.split(",") if entry.strip())
    column = MACHINES[machine]
    return {name: int(columns[column]) for name, *columns in entries if columns[column] != "-"}
