"""Runs a command that must not outlive its parent: `python _tied.py <parent's id> <how> <user> <command>...`.

This is a separate script that uses only the standard library, because it runs between fork and exec: it ties itself to
its parent and then replaces itself with the command, which keeps the process id. On Linux the kernel kills the process
when the parent's starting thread ends (`kernel`). Elsewhere a watcher process waits for the end of standard input, a
pipe that only the parent holds open (`pipe`).
"""

import ctypes
import os
import select
import signal
import sys

_PR_SET_PDEATHSIG = 1


def by_kernel(parent: int) -> None:
    """Make Linux kill this process, and the command after it, when the parent has ended."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # the parent ended before the call
        sys.exit(1)


def by_pipe() -> None:
    """Fork a watcher that kills this process, and the command after it, at the end of standard input."""
    tied = os.getpid()
    living, alive = os.pipe()
    if os.fork() == 0:
        os.close(alive)
        # The watcher keeps only the two pipes open, so that it holds no other file of the command, such as a lock.
        os.dup2(living, 3)
        os.closerange(4, 256)
        ended = select.select([0, 3], [], [])[0]
        if 3 not in ended:
            os.kill(tied, signal.SIGKILL)
        os._exit(0)
    os.close(living)
    os.set_inheritable(alive, True)


def become(user: str) -> None:
    """Switch to another user of the operating system."""
    import pwd  # imported only where it is needed, because the import takes time

    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def main() -> None:
    """Tie this process to its parent, then replace it with the command."""
    parent, how, user, *command = sys.argv[1:]
    if how == "pipe":
        by_pipe()  # before switching users, so that the watcher may kill the command whoever runs it
    if user:
        become(user)
    if how == "kernel":
        by_kernel(int(parent))  # after switching, because the kernel forgets the request when the user changes
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
