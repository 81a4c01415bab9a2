"""A server that speaks the beginning of PostgreSQL's protocol: TLS or none, then an error that ends the connection."""

import asyncio
import ssl
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_SSL_REQUEST = 80877103


@dataclass
class ErrorServer:
    """The server's port and what clients have sent to it.

    Attributes:
        port: the port on which the server listens.
        startups: the parameters of each connection's startup message.
        encrypted: for each startup message, whether it came over TLS.
    """

    port: int = 0
    startups: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    encrypted: list[bool] = field(default_factory=list[bool])


@asynccontextmanager
async def error_server(
    context: ssl.SSLContext | None = None, *, sqlstate: str = "3D000", host: str = "127.0.0.1"
) -> AsyncGenerator[ErrorServer]:
    """Run a server that answers every login with the same error.

    Args:
        context: the TLS context with its certificate; without one the server refuses TLS.
        sqlstate: the SQLSTATE of that error.
        host: the address on which it listens.
    """
    state = ErrorServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            code, body = await _message(reader)
            encrypted = False
            if code == _SSL_REQUEST:
                writer.write(b"N" if context is None else b"S")
                await writer.drain()
                if context is not None:
                    await writer.start_tls(context)
                    encrypted = True
                code, body = await _message(reader)
            words = body.decode().split("\x00")
            state.startups.append(dict(zip(words[::2], words[1::2], strict=False)))
            state.encrypted.append(encrypted)
            fields = b"SFATAL\x00VFATAL\x00C" + sqlstate.encode() + b"\x00Mthe test answers this\x00\x00"
            writer.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client rejected the certificate
        finally:
            writer.close()

    server = await asyncio.start_server(serve, host, 0)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()


async def _message(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    length, code = struct.unpack("!ii", await reader.readexactly(8))
    return code, await reader.readexactly(length - 8)
