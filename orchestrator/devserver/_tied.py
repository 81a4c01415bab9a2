"""Runs a command that must not outlive whoever started it: `python _tied.py <parent's id> <how> <command>...`.

A script of its own, with nothing but the standard library, because it stands between fork and exec: it ties itself to
its parent and then *becomes* the command, which keeps its process id. On Linux the kernel is asked to kill it when
the parent's starting thread ends (`kernel`). Elsewhere a watcher process waits for the end of standard input, a pipe
that only the parent holds open (`pipe`).
"""

import ctypes
import os
import select
import signal
import sys

_PR_SET_PDEATHSIG = 1


def by_kernel(parent: int) -> None:
    """Have Linux kill this process, and what it becomes, when its parent is gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # gone before it was asked
        sys.exit(1)


def by_pipe() -> None:
    """Fork a watcher that kills this process, and what it becomes, at the end of standard input."""
    tied = os.getpid()
    living, alive = os.pipe()
    if os.fork() == 0:
        os.close(alive)
        # Only the two pipes: whatever else the command holds, such as a lock, must not be held by the watcher too.
        os.dup2(living, 3)
        os.closerange(4, 256)
        ended = select.select([0, 3], [], [])[0]
        if 3 not in ended:
            os.kill(tied, signal.SIGKILL)
        os._exit(0)
    os.close(living)
    os.set_inheritable(alive, True)


def main() -> None:
    """Tie, then become the command."""
    parent, how, *command = sys.argv[1:]
    if how == "kernel":
        by_kernel(int(parent))
    else:
        by_pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
