"""How the supervisor measures for how long a process has sent no sign of life."""

from orchestrator.worker.process.silence import Silence


def test_silence_accumulates_until_a_sign_of_life() -> None:
    silence = Silence(0.25, looked_at=100.0)

    assert silence.look(100.25, heard=False) == 0.25
    assert silence.look(100.5, heard=False) == 0.5
    assert silence.look(100.75, heard=True) == 0.0
    assert silence.look(101.0, heard=False) == 0.25


def test_the_time_in_which_the_listener_was_suspended_does_not_count() -> None:
    silence = Silence(0.25, looked_at=100.0)
    silence.look(100.25, heard=False)

    assert silence.look(5000.0, heard=False) == 0.75
