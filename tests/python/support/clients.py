"""Clients: plain sockets, and what a peer sees."""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import iocp_bind
from support.system import ON_WINE
from support.waiting import DEADLINE

Address = tuple[str, int]
Target = iocp_bind.Server | Address


class Connect(Protocol):
    """The fixture `connect`: a client socket with a timeout, closed after the test."""

    def __call__(self, target: Target, *, receive_buffer: int | None = None) -> socket.socket: ...


def address_of(target: Target) -> Address:
    return target.address if isinstance(target, iocp_bind.Server) else target


def open_client(target: Target, *, receive_buffer: int | None = None) -> socket.socket:
    """Connect; the caller closes."""
    address = address_of(target)
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM)
    try:
        client.settimeout(DEADLINE)
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(address)
    except BaseException:
        client.close()
        raise
    return client


def recv_exact(client: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = client.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise AssertionError(f"the stream ended after {len(parts)} of {size} bytes")
        parts += part
    return bytes(parts)


def recv_to_end(client: socket.socket) -> bytes:
    """Everything up to the end of the stream; a reset raises ConnectionResetError."""
    parts = bytearray()
    while part := client.recv(1 << 20):
        parts += part
    return bytes(parts)


def ask(client: socket.socket, message: bytes) -> bytes:
    """Send, and receive an answer of the same length."""
    client.sendall(message)
    return recv_exact(client, len(message))


def reset(client: socket.socket) -> None:
    """Close with a reset instead of an end of stream."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def saw_reset(client: socket.socket) -> bool:
    """Read on: True when the connection was reset, False when the stream ended in order.

    Wine ends the stream in order before it resets it, so there both are taken for a reset.
    """
    try:
        recv_to_end(client)
    except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError):
        return True
    return ON_WINE


def saw_end(client: socket.socket) -> bool:
    """Read on: True when the stream ended in order, False when the connection was reset."""
    try:
        recv_to_end(client)
    except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError):
        return False
    return True


def fill(client: socket.socket, limit: int, patience: float = 0.5) -> int:
    """Send zeros until the peer has taken none for `patience` seconds, or `limit` are out."""
    chunk = bytes(1 << 16)
    sent = 0
    client.setblocking(False)
    try:
        while sent < limit and select.select([], [client], [], patience)[1]:
            with contextlib.suppress(BlockingIOError):
                sent += client.send(chunk[: limit - sent])
    finally:
        client.settimeout(DEADLINE)
    return sent


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes in which a lost, doubled or moved piece shows."""
    return random.Random(seed).randbytes(size)


def is_refused(target: Target) -> bool:
    """Whether a newcomer is reset at once; that may be before connect() returns."""
    try:
        client = open_client(target)
    except ConnectionResetError:
        return True
    with client:
        return saw_reset(client)


@contextlib.contextmanager
def clients_of(target: Target, count: int) -> Iterator[list[socket.socket]]:
    """Many clients at once, closed at the end."""
    clients: list[socket.socket] = []
    try:
        for _ in range(count):
            clients.append(open_client(target))
        yield clients
    finally:
        for client in clients:
            client.close()


def server_socket_of(client: socket.socket) -> socket.socket:
    """Return the server's end of `client`, which is in this process, as a socket of its own."""
    for entry in Path("/proc/self/fd").iterdir():
        try:
            copy = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:
            continue  # no socket
        try:
            if copy.getpeername() == client.getsockname():
                return copy
        except OSError:
            pass  # not connected
        copy.close()
    raise AssertionError("the server's end was not found in this process")
