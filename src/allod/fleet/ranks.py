"""`python -m allod.fleet.ranks`: torchrun, with the two things that a job under a scheduler needs.

Run as a program with torchrun's own arguments. Whoever asks a job to stop signals every process of it, so the ranks
hear SIGUSR1 and SIGTERM themselves; torchrun would die of the one and kill ranks that are saving upon the other, and
leaves both alone here. And where ranks ended with status 75 (interrupted, saved) so does this, instead of torchrun's 1.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from allod.fleet.jobs import INTERRUPTED_STATUS

SAVE_S = 600  # after one rank has ended badly or early: what the others have before they are killed


def main(arguments: Sequence[str]) -> int:
    """The exit status of the ranks: 0, 75, or 1 for everything else."""
    # Ignored signals stay so in the ranks until each sets its own handler: one that comes before is lost, not fatal.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # seconds: after the signals
    from torch.distributed.run import main as torchrun

    try:
        torchrun(["--signals-to-handle=SIGINT,SIGHUP,SIGQUIT", f"--shutdown-timeout={SAVE_S}", *arguments])
    except ChildFailedError as error:
        first_failure = error.get_first_failure()[1]
        return INTERRUPTED_STATUS if first_failure.exitcode == INTERRUPTED_STATUS else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
