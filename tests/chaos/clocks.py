"""The clocks of the workers, most of which are wrong: each process gets one that depends on its process id."""

import os
from datetime import timedelta
from time import monotonic

from tests.wrong_clock import set_wrong

KINDS = ("right", "an hour ahead", "an hour behind", "drifting")
_DRIFT = 20.0
"""How many seconds a drifting clock gains per second."""


def set_clock(pid: int | None = None) -> str:
    """Set this process's clock.

    Args:
        pid: the process id that decides which clock it gets; by default the process's own.

    Returns:
        One of `KINDS`.
    """
    kind = KINDS[(os.getpid() if pid is None else pid) % len(KINDS)]
    began = monotonic()
    match kind:
        case "an hour ahead":
            set_wrong(lambda: timedelta(hours=1))
        case "an hour behind":
            set_wrong(lambda: timedelta(hours=-1))
        case "drifting":
            set_wrong(lambda: timedelta(seconds=_DRIFT * (monotonic() - began)))
        case _:
            pass
    return kind
