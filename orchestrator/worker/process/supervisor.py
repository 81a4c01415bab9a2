"""The supervisor starts worker processes, replaces those that end, kills those that hang, and drains them all.

It runs no sagas and opens no connection. Its processes are fresh interpreters that run the supervisor's own command.
Each has its own session, so that a terminal's Ctrl-C reaches only the supervisor. No process outlives the supervisor.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.devserver.child import TIE, tied
from orchestrator.telemetry.streams import write_line
from orchestrator.worker.process.heart import INTERVAL, READY, VARIABLE, Supervised
from orchestrator.worker.process.silence import Silence
from orchestrator.worker.process.watchdog import EXIT_BLOCKED

HEART_LIMIT = 5.0
"""Seconds without a sign of life after which a ready process is killed."""
START_LIMIT = 30.0
"""Seconds without a sign of life after which a starting process is killed. Imports and checks block its event loop."""
_BEYOND_DRAIN = 5.0
"""How many seconds a process may take beyond its own time to drain."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
"""First and longest wait before a dead process is replaced, in seconds."""
_STEADY = 10.0
"""A process counts as having died immediately if it has been ready for fewer seconds than this."""
_LASTING = 2
"""The exit code for faults in definitions or settings, which a replacement would have as well."""
_MAY_PASS = (0, EXIT_BLOCKED)
"""The exit codes of a stopped or blocked process, after which it is replaced even if it was never ready."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(slots=True)
class _Process:
    """A running worker process."""

    popen: "subprocess.Popen[bytes]"
    pipe: int
    silence: Silence
    ready_at: float | None = None
    has_closed: bool = False


@dataclass(slots=True)
class _Slot:
    """A numbered slot for one worker process and its replacements."""

    number: int
    process: _Process | None = None
    deaths: int = 0
    """The number of immediate deaths in a row."""
    start_at: float = 0.0
    """The earliest time at which the next process may start."""
    is_given_up: bool = False
    """Whether no replacement is started, because the last process ended with a lasting fault before it was ready."""


@dataclass(slots=True)
class Supervisor:
    """Runs a number of worker processes until it is stopped.

    Args:
        command: the command that starts a process.
        processes: the number of processes.
        drain: the number of seconds that a process may take to drain.
        heart_limit: the seconds without a sign of life after which a ready process is killed, or 0 for no limit.
    """

    command: Sequence[str]
    processes: int
    drain: float
    heart_limit: float = HEART_LIMIT
    _slots: list[_Slot] = field(default_factory=list[_Slot])
    _was_ready: bool = False
    """Whether any process was ever ready."""
    _stopped_by: signal.Signals | None = None
    """The first signal that asked the supervisor to stop, or None."""
    _killed: bool = False
    """Whether a process was killed because it did not drain in time."""

    def run(self) -> int:
        """Run until SIGTERM or Ctrl-C, then drain. A second signal kills everything immediately.

        Returns:
            The exit code: 0 after a drain, 1 if a process had to be killed, the first process's exit code if it ended
            before any process was ready, and 2 if every process ended with a lasting fault.
        """
        self._slots = [_Slot(number) for number in range(1, self.processes + 1)]
        for number in _SIGNALS:
            signal.signal(number, self._stop)
        drained_by: float | None = None
        while True:
            now = time.monotonic()
            if self._stopped_by is not None and drained_by is None:
                drained_by = now + self.drain + _BEYOND_DRAIN
                self._begin_drain()
            for slot in self._slots:
                if slot.process is not None:
                    self._check(slot.process, now, drained_by)
                fatal = self._reap(slot, now)
                if fatal is not None:
                    self._kill_all()
                    return fatal
                if slot.process is None and self._stopped_by is None and self._may_start(slot, now):
                    self._start(slot)
            if self._stopped_by is not None and all(slot.process is None for slot in self._slots):
                if not self._killed:
                    write_line("Drained.")
                return int(self._killed)
            self._listen()

    def _may_start(self, slot: _Slot, now: float) -> bool:
        """Return whether a process may start now.

        The first process starts alone, because it migrates the tables, and because a common fault is then reported only
        once.
        """
        return not slot.is_given_up and now >= slot.start_at and (slot.number == 1 or self._was_ready)

    def _start(self, slot: _Slot) -> None:
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        supervised = Supervised(write_end, slot.number, self.processes)
        environment: Mapping[str, str] = {**os.environ, VARIABLE: supervised.environment_value()}
        try:
            popen = subprocess.Popen(  # noqa: S603
                tied(self.command, TIE),
                stdin=subprocess.PIPE,
                env=environment,
                pass_fds=(write_end,),
                start_new_session=True,
            )
        finally:
            os.close(write_end)
        slot.process = _Process(popen, read_end, Silence(INTERVAL, time.monotonic()))

    def _check(self, process: _Process, now: float, drained_by: float | None) -> None:
        """Read a process's signs of life, and kill it if there are none or if it drains for too long."""
        heard = b""
        if not process.has_closed:
            try:
                heard = os.read(process.pipe, 1 << 16)
                process.has_closed = not heard
            except BlockingIOError:
                pass
        if READY in heard:
            process.ready_at = now
            self._was_ready = True
        silent = process.silence.look(now, heard=bool(heard))
        if drained_by is not None:
            if now >= drained_by and process.popen.poll() is None:
                self._killed = True
                _report(f"Worker process {process.popen.pid} has not drained in time and is killed.")
                process.popen.kill()
            return
        limit = self.heart_limit if process.ready_at is not None else max(START_LIMIT, self.heart_limit)
        if self.heart_limit and silent >= limit and process.popen.poll() is None:
            _report(f"Worker process {process.popen.pid} has given no sign of life for {silent:.0f} s and is killed.")
            process.popen.kill()
            process.silence.seconds = 0.0  # so that this is reported once

    def _reap(self, slot: _Slot, now: float) -> int | None:
        """Clean up after a process that has ended, and decide when to replace it.

        Returns:
            The exit code of the supervisor if no process may be started any more, otherwise None.
        """
        process = slot.process
        if process is None or (code := process.popen.poll()) is None:
            return None
        slot.process = None
        os.close(process.pipe)
        if process.popen.stdin is not None:
            process.popen.stdin.close()
        if self._stopped_by is not None:
            return None
        if not self._was_ready and code > 0 and code not in _MAY_PASS:
            return code  # the process has reported why
        if process.ready_at is None and code == _LASTING:
            slot.is_given_up = True
            _report(
                f"Worker process {process.popen.pid} ended ({_describe_exit(code)}) before it was ready. It is not "
                "replaced, because its replacement would have the same fault; the other processes continue. Correct "
                "the fault, then restart the worker."
            )
            return code if all(slot.is_given_up for slot in self._slots) else None
        steady = process.ready_at is not None and now - process.ready_at >= _STEADY
        slot.deaths = 0 if steady else slot.deaths + 1
        wait = 0.0 if slot.deaths == 0 else min(_FIRST_WAIT * 2 ** (slot.deaths - 1), _LONGEST_WAIT)
        if process.ready_at is not None:
            wait = min(wait, HEART_LIMIT)  # because a saga that keeps killing its process must not delay others long
        slot.start_at = now + wait
        _report(f"Worker process {process.popen.pid} ended ({_describe_exit(code)}); another starts in {wait:g} s.")
        return None

    def _begin_drain(self) -> None:
        write_line("Draining: steps in progress end, no new ones begin. Press Ctrl-C again to stop immediately.")
        for process in self._living():
            process.popen.send_signal(signal.SIGTERM)

    def _stop(self, number: int, _: object) -> None:
        if self._stopped_by is None:
            self._stopped_by = signal.Signals(number)
            return
        self._kill_all()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _kill_all(self) -> None:
        for process in self._living():
            process.popen.kill()
            process.popen.wait()

    def _living(self) -> list[_Process]:
        return [slot.process for slot in self._slots if slot.process is not None]

    def _listen(self) -> None:
        """Wait until a process sends a sign of life or ends."""
        pipes = [process.pipe for process in self._living() if not process.has_closed]
        select.select(pipes, [], [], INTERVAL / 5 if len(pipes) < len(self._slots) else INTERVAL)


def own_command() -> list[str]:
    """Return the command that started this process, without its arguments: `python worker.py`, or `python -m ...`."""
    options = len(sys.argv) - 1
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - options]]


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"


def _report(text: str) -> None:
    write_line(text, to_stderr=True)
