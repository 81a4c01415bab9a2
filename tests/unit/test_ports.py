"""A server takes the wanted port, otherwise a port nearby, otherwise any port."""

import socket
from collections.abc import Generator
from contextlib import closing

import pytest

from orchestrator.devserver.ports import HOST, free_port, is_listening


@pytest.fixture
def taken() -> Generator[int]:
    """A port on which another server listens."""
    with closing(socket.create_server((HOST, 0))) as server:
        yield server.getsockname()[1]


def test_a_wanted_port_that_is_free_is_chosen() -> None:
    wanted = free_port(0)

    assert free_port(wanted) == wanted


def test_instead_of_a_port_in_use_another_one_is_chosen(taken: int) -> None:
    chosen = free_port(taken)

    assert chosen != taken
    assert not is_listening(chosen)


def test_a_port_that_is_bound_without_a_listener_counts_as_in_use() -> None:
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        port = bound.getsockname()[1]

        assert free_port(port) != port


def test_a_port_that_is_reserved_for_another_server_is_not_chosen() -> None:
    wanted = free_port(0)

    assert free_port(wanted, but_not=wanted) != wanted


def test_port_zero_means_any_port() -> None:
    assert free_port(0) > 0
