"""The protocol of Redis (RESP): commands cut out of a stream, replies put together."""

from __future__ import annotations

# A peer decides what it announces; we decide how much of it we keep.
MAX_BULK = 512 * 1024
MAX_ARGUMENTS = 1024
MAX_LINE = 64 * 1024
MAX_INTEGER = 2**63 - 1

NULL_2, NULL_3 = b"$-1\r\n", b"_\r\n"  # no string, in the two versions of the protocol


class CommandError(Exception):
    """A command cannot be carried out; the client is told why."""


class ProtocolError(Exception):
    """Nobody can say where the next command begins; the client is told why, and closed."""


def bulk(data: bytes) -> bytes:
    """Return a string in the protocol's form."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def integer(value: int) -> bytes:
    """Return an integer in the protocol's form."""
    return b":%d\r\n" % value


def group(kind: bytes, *items: bytes) -> bytes:
    """Return an array (``*``), a map (``%``) or a push (``>``) of items in the protocol's form."""
    return b"%b%d\r\n%b" % (kind, len(items) // (2 if kind == b"%" else 1), b"".join(items))


def number(text: bytes) -> int:
    """Return an argument that must be an integer of 64 bits."""
    try:
        value = int(text)
    except ValueError:
        value = MAX_INTEGER + 1
    if abs(value) > MAX_INTEGER:
        raise CommandError("value is not an integer or out of range")
    return value


def length(line: bytes, limit: int, what: str) -> int:
    """Return the length that a line announces behind its first byte."""
    try:
        value = int(line[1:])
    except ValueError:
        value = -1
    if not 0 <= value <= limit:
        raise ProtocolError(f"invalid {what} length")
    return value


def line_at(data: bytes, at: int) -> tuple[bytes, int] | None:
    """Return the line at `at` and where the next one begins; None: it is not whole yet."""
    end = data.find(b"\n", at, at + MAX_LINE)
    if end >= 0:
        return data[at:end], end + 1
    if len(data) - at >= MAX_LINE:
        raise ProtocolError("too big inline request")
    return None


def command_at(data: bytes, at: int) -> tuple[list[bytes], int] | None:
    """Return the command at `at` and where the next one begins; None: it is not whole yet."""
    if (found := line_at(data, at)) is None:
        return None
    line, at = found
    if not line.startswith(b"*"):  # typed by a person
        return line.split(), at
    arguments = []
    for _ in range(length(line, MAX_ARGUMENTS, "multibulk")):
        if (found := line_at(data, at)) is None:
            return None
        line, at = found
        if not line.startswith(b"$"):
            raise ProtocolError(f"expected '$', got {line[:1]!r}")
        end = at + length(line, MAX_BULK, "bulk")
        if end + 2 > len(data):
            return None
        arguments.append(data[at:end])
        at = end + 2
    return arguments, at
