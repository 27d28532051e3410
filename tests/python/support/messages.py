"""Servers that record messages, and clients that cut their stream where the test says."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

import pytest

import iocp_bind
from iocp_bind import Connection
from support.servers import Recorder
from support.waiting import wait_until


class Messages(Recorder):
    """Records messages too, as "message"; `handle` gets those of one call, in a list.

    Use `EachMessage` or `Lists`.
    """

    def __init__(
        self, handle: Callable[[Connection, list[Any]], object] | None = None, **hooks: Any
    ) -> None:
        super().__init__(**hooks)
        self._handle = handle

    def _got(self, conn: Connection, messages: list[Any]) -> None:
        for message in messages:
            self._record("message", conn, bytes(message))
        if self._handle is not None:
            self._handle(conn, messages)

    def messages_of(self, conn: Connection) -> list[bytes]:
        return [event.value for event in self.of_connection(conn) if event.hook == "message"]

    def wait_messages(self, conn: Connection, count: int) -> list[bytes]:
        """Wait until `conn` has got `count` messages; return all that it has got."""
        self.wait_for(lambda: len(self.messages_of(conn)) >= count, f"{count} messages")
        return self.messages_of(conn)


class EachMessage(Messages):
    def on_message(self, conn: Connection, message: Any) -> None:
        self._got(conn, [message])


class Lists(Messages):
    def on_messages(self, conn: Connection, messages: list[Any]) -> None:
        self._record("list", conn, len(messages))
        self._got(conn, messages)


class NoWrites(iocp_bind.Server):
    """In front of a `Recorder`: one that does not want to know what was written."""

    on_write_completed = iocp_bind.Server.on_write_completed


class Quiet(NoWrites, EachMessage):
    """Gets one message after the other, and does not want to know what was written."""


class QuietLists(NoWrites, Lists):
    """Gets lists, and does not want to know what was written."""


KINDS = pytest.mark.parametrize("kind", [EachMessage, Lists])
"""A test for servers of both kinds, in the parameter `kind`."""


class Feeder:
    """Sends pieces to a connection, each when the one before has come: none are put together."""

    def __init__(self, client: socket.socket, conn: Connection) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client = client
        self._conn = conn
        self._sent = conn.bytes_received
        self.was_reset = False  # true exactly when a send has found that out

    def feed(self, *pieces: bytes) -> None:
        """Send them. A connection that has ended gets no more."""
        for piece in pieces:
            try:
                self._client.sendall(piece)
            except ConnectionError:
                self.was_reset = True
            self._sent += len(piece)
            wait_until(self._came, "the bytes coming", pause=0.0002)

    def end(self) -> None:
        """End the stream."""
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)

    def _came(self) -> bool:
        return self._conn.bytes_received >= self._sent or not self._conn.is_open
