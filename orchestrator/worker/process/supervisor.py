"""The supervisor: starts worker processes, follows up those that end, ends those that stand still, drains them all.

It does no work itself and opens no connection. Its processes are fresh interpreters that run the same command as it
does, each in a session of its own, so that a terminal's Ctrl-C reaches the supervisor alone; none outlives it.
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
"""Seconds without a sign of life after which a process is killed."""
START_LIMIT = 30.0
"""The same until it is ready: imports and checks block its event loop."""
_BEYOND_DRAIN = 5.0
"""Seconds that a process gets beyond its own time to drain."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_STEADY = 10.0
"""A process that was ready for so many seconds did not die at once."""
_LASTING = 2
"""Exit code of faults that another start would meet again: of definition, and of settings."""
_MAY_PASS = (0, EXIT_BLOCKED)
"""Exit codes of a process that was not ready yet, after which another is started: it was told to stop, or blocked."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(slots=True)
class _Process:
    """One living worker process."""

    popen: "subprocess.Popen[bytes]"
    pipe: int
    silence: Silence
    ready_at: float | None = None
    has_closed: bool = False


@dataclass(slots=True)
class _Place:
    """A process's place, in which one follows the other."""

    number: int
    process: _Process | None = None
    deaths: int = 0
    """In a row, each at once."""
    start_at: float = 0.0
    is_given_up: bool = False
    """No process follows: the last one had a fault that will not go away, before it was ready."""


@dataclass(slots=True)
class Supervisor:
    """Runs a number of worker processes until told to stop.

    Args:
        command: what starts one.
        processes: how many.
        drain: seconds that one may take to drain.
        heart_limit: seconds without a sign of life after which a ready one is killed; 0: never.
    """

    command: Sequence[str]
    processes: int
    drain: float
    heart_limit: float = HEART_LIMIT
    _places: list[_Place] = field(default_factory=list[_Place])
    _was_ready: bool = False
    """Whether any process ever was."""
    _told: signal.Signals | None = None
    _killed: bool = False
    """Whether one did not drain in its time."""

    def run(self) -> int:
        """Run until SIGTERM or Ctrl-C, then drain; the second one ends everything at once.

        Returns:
            The exit code: 0 drained, 1 one had to be killed; what the first process ended with, if that was before any
            was ready; 2 if every process ended with a fault that will not go away.
        """
        self._places = [_Place(number) for number in range(1, self.processes + 1)]
        for number in _SIGNALS:
            signal.signal(number, self._stop)
        drained_by: float | None = None
        while True:
            now = time.monotonic()
            if self._told is not None and drained_by is None:
                drained_by = now + self.drain + _BEYOND_DRAIN
                self._begin_drain()
            for place in self._places:
                if place.process is not None:
                    self._look_at(place, place.process, now, drained_by)
                fatal = self._reap(place, now)
                if fatal is not None:
                    self._kill_all()
                    return fatal
                if place.process is None and self._told is None and self._may_start(place, now):
                    self._start(place)
            if self._told is not None and all(place.process is None for place in self._places):
                if not self._killed:
                    write_line("Drained.")
                return int(self._killed)
            self._listen()

    def _may_start(self, place: _Place, now: float) -> bool:
        """The first goes ahead: what is wrong with all of them is told once, and it brings the tables up to date."""
        return not place.is_given_up and now >= place.start_at and (place.number == 1 or self._was_ready)

    def _start(self, place: _Place) -> None:
        hears, says = os.pipe()
        os.set_blocking(hears, False)
        environment: Mapping[str, str] = {
            **os.environ,
            VARIABLE: Supervised(says, place.number, self.processes).said(),
        }
        try:
            popen = subprocess.Popen(  # noqa: S603
                tied(self.command, TIE),
                stdin=subprocess.PIPE,
                env=environment,
                pass_fds=(says,),
                start_new_session=True,
            )
        finally:
            os.close(says)
        place.process = _Process(popen, hears, Silence(INTERVAL, time.monotonic()))

    def _look_at(self, place: _Place, process: _Process, now: float, drained_by: float | None) -> None:
        """Hear what a process says, and kill it if it says nothing, or drains for too long."""
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
                _remark(f"Worker process {process.popen.pid} has not drained in time and is killed.")
                process.popen.kill()
            return
        limit = self.heart_limit if process.ready_at is not None else max(START_LIMIT, self.heart_limit)
        if self.heart_limit and silent >= limit and process.popen.poll() is None:
            _remark(f"Worker process {process.popen.pid} has given no sign of life for {silent:.0f} s and is killed.")
            process.popen.kill()
            process.silence.seconds = 0.0  # said once

    def _reap(self, place: _Place, now: float) -> int | None:
        """Collect a process that has ended, and decide when another follows; the code to leave with, if none may."""
        process = place.process
        if process is None or (code := process.popen.poll()) is None:
            return None
        place.process = None
        os.close(process.pipe)
        if process.popen.stdin is not None:
            process.popen.stdin.close()
        if self._told is not None:
            return None
        if not self._was_ready and code > 0 and code not in _MAY_PASS:
            return code  # the process has said why
        if process.ready_at is None and code == _LASTING:
            place.is_given_up = True
            _remark(
                f"Worker process {process.popen.pid} ended ({_ending(code)}) before it was ready. Another would meet "
                "the same fault, so none is started; the other processes go on. Correct it, then restart the worker."
            )
            return code if all(one.is_given_up for one in self._places) else None
        steady = process.ready_at is not None and now - process.ready_at >= _STEADY
        place.deaths = 0 if steady else place.deaths + 1
        wait = 0.0 if place.deaths == 0 else min(_FIRST_WAIT * 2 ** (place.deaths - 1), _LONGEST_WAIT)
        if process.ready_at is not None:
            wait = min(wait, HEART_LIMIT)  # it works in between: a saga that kills it must not stop the others for long
        place.start_at = now + wait
        _remark(f"Worker process {process.popen.pid} ended ({_ending(code)}); another starts in {wait:g} s.")
        return None

    def _begin_drain(self) -> None:
        write_line("Draining: steps in progress end, nothing new begins. Ctrl-C again ends at once.")
        for process in self._living():
            process.popen.send_signal(signal.SIGTERM)

    def _stop(self, number: int, _: object) -> None:
        if self._told is None:
            self._told = signal.Signals(number)
            return
        self._kill_all()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _kill_all(self) -> None:
        for process in self._living():
            process.popen.kill()
            process.popen.wait()

    def _living(self) -> list[_Process]:
        return [place.process for place in self._places if place.process is not None]

    def _listen(self) -> None:
        """Wait for the next sign of life, or death, of any."""
        pipes = [process.pipe for process in self._living() if not process.has_closed]
        select.select(pipes, [], [], INTERVAL / 5 if len(pipes) < len(self._places) else INTERVAL)


def own_command() -> list[str]:
    """What started this process, without its own arguments: `python worker.py`, or `python -m ...`."""
    options = len(sys.argv) - 1
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - options]]


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"


def _remark(text: str) -> None:
    write_line(text, to_stderr=True)
