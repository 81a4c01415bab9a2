"""Choosing a port: the wanted one, else one nearby, else any."""

import socket
from collections.abc import Generator
from contextlib import closing

import pytest

from orchestrator.devserver.ports import HOST, free_port, is_listening


@pytest.fixture
def taken() -> Generator[int]:
    """A port that somebody listens on."""
    with closing(socket.create_server((HOST, 0))) as server:
        yield server.getsockname()[1]


def test_a_free_port_is_taken_as_wanted() -> None:
    wanted = free_port(0)

    assert free_port(wanted) == wanted


def test_instead_of_a_taken_port_one_of_the_next_is_chosen(taken: int) -> None:
    chosen = free_port(taken)

    assert chosen != taken
    assert not is_listening(chosen)


def test_a_port_that_is_bound_and_not_listened_on_is_taken_too() -> None:
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        port = bound.getsockname()[1]

        assert free_port(port) != port


def test_a_port_that_another_server_is_about_to_take_is_left_out() -> None:
    wanted = free_port(0)

    assert free_port(wanted, but_not=wanted) != wanted


def test_zero_asks_for_any() -> None:
    assert free_port(0) > 0
