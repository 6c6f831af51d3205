"""The profile `island-gpu`: an island whose processes may ask the drivers of the devices that they are granted.

Which device is for Landlock and the root to say; here is only which numbers pass. They are masks and no list: drivers
add numbers with each version, and a driver of NVIDIA's looks at no more than the last byte. Sources: gVisor's
pkg/abi/nvgpu (frontend.go, uvm.go).
"""

from __future__ import annotations

from allod.seal.profiles import island
from allod.seal.walls.bpf import Check, Rule

_REQUEST = 1  # ioctl's argument
_FRONTEND = 0xC000_4600, 0xC000_FF00  # _IOWR('F', any number, any size)
_UVM_STARTS, _UVM_ENDS = 0x3000_0001, 0x3000_0002
_UVM_NUMBERS = 0, 0xFFFF_FF80  # 0 to 127, bare
_IOCTLS: Rule = (
    (Check(_REQUEST, _FRONTEND[0], mask=_FRONTEND[1]),),
    (Check(_REQUEST, _UVM_STARTS),),
    (Check(_REQUEST, _UVM_ENDS),),
    (Check(_REQUEST, _UVM_NUMBERS[0], mask=_UVM_NUMBERS[1]),),
)


def rules(own_pid: int) -> dict[str, Rule]:
    """The calls that are allowed with these arguments only."""
    of_an_island = island.rules(own_pid)
    return of_an_island | {
        "ioctl": (*of_an_island["ioctl"], *_IOCTLS),
        "move_pages": ((Check(0, 0),),),  # its own
    }
