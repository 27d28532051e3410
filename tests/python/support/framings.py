"""A plain reference for every framing: how messages are encoded, and how a stream is cut."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import singledispatch
from typing import NamedTuple

import iocp_bind
from iocp_bind import Framing


class Fault(Exception):
    """A stream is cut no further: it is "too long", "malformed" or "truncated"."""

    def __init__(self, kind: str, announced: int | None = None) -> None:
        super().__init__(kind)
        self.kind = kind
        self.announced = announced


class Cut(NamedTuple):
    """The messages of a stream that has ended, and what was wrong behind them, if anything."""

    messages: list[bytes]
    fault: Fault | None


def cut(framing: Framing, stream: bytes) -> Cut:
    messages: list[bytes] = []
    try:
        messages.extend(_cut(framing, stream))  # those before a fault stay in it
    except Fault as fault:
        return Cut(messages, fault)
    return Cut(messages, None)


@singledispatch
def encode(framing: Framing, message: bytes) -> bytes:
    raise NotImplementedError(framing)


@singledispatch
def _cut(framing: Framing, stream: bytes) -> Iterator[bytes]:
    raise NotImplementedError(framing)


def _take(stream: bytes, at: int, size: int) -> bytes:
    if len(stream) - at < size:
        raise Fault("truncated")
    return stream[at : at + size]


# ---- LengthPrefix: the rules of Netty's LengthFieldBasedFrameDecoder, but for max_size, which is
# that of the message.


def stripped(framing: iocp_bind.LengthPrefix) -> int:
    if framing.strip is not None:
        return framing.strip
    return framing.size if framing.offset == 0 else 0


@_cut.register
def _(framing: iocp_bind.LengthPrefix, stream: bytes) -> Iterator[bytes]:
    strip, header, at = stripped(framing), framing.offset + framing.size, 0
    while at < len(stream):
        field = _take(stream, at, header)[framing.offset :]
        frame = header + int.from_bytes(field, framing.byteorder) + framing.adjust
        if frame < header or frame < strip:
            raise Fault("malformed")
        if frame - strip > framing.max_size:
            raise Fault("too long", frame - strip)
        yield _take(stream, at, frame)[strip:]
        at += frame


@encode.register
def _(framing: iocp_bind.LengthPrefix, message: bytes) -> bytes:
    if stripped(framing) == 0:
        return message
    return (len(message) - framing.adjust).to_bytes(framing.size, framing.byteorder) + message


# ---- Delimiter.


@_cut.register
def _(framing: iocp_bind.Delimiter, stream: bytes) -> Iterator[bytes]:
    longest_first = sorted(framing.delimiters, key=len, reverse=True)
    pattern, at = re.compile(b"|".join(map(re.escape, longest_first))), 0
    while at < len(stream):
        found = pattern.search(stream, at)
        if (len(stream) if found is None else found.start()) - at > framing.max_size:
            raise Fault("too long")
        if found is None:
            raise Fault("truncated")
        yield stream[at : found.end() if framing.keep else found.start()]
        at = found.end()


@encode.register
def _(framing: iocp_bind.Delimiter, message: bytes) -> bytes:
    return message if framing.keep else message + framing.delimiters[0]


# ---- FixedSize.


@_cut.register
def _(framing: iocp_bind.FixedSize, stream: bytes) -> Iterator[bytes]:
    for at in range(0, len(stream), framing.size):
        yield _take(stream, at, framing.size)


@encode.register
def _(framing: iocp_bind.FixedSize, message: bytes) -> bytes:
    return message


# ---- VarintPrefix.


@_cut.register
def _(framing: iocp_bind.VarintPrefix, stream: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(stream):
        size = shift = 0
        more = True
        while more:
            (byte,) = _take(stream, at, 1)
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if size >= 1 << 64 or (shift == 70 and byte & 0x80):
                raise Fault("malformed")
            more = bool(byte & 0x80)
        if size > framing.max_size:
            raise Fault("too long", size)
        yield _take(stream, at, size)
        at += size


@encode.register
def _(framing: iocp_bind.VarintPrefix, message: bytes) -> bytes:
    head, size = bytearray(), len(message)
    while size > 0x7F:
        head.append(0x80 | size & 0x7F)
        size >>= 7
    return bytes(head) + bytes([size]) + message


# ---- Netstring.


@_cut.register
def _(framing: iocp_bind.Netstring, stream: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(stream):
        digits = b""
        while (c := _take(stream, at, 1)) != b":" or not digits:
            if not c.isdigit() or digits == b"0":
                raise Fault("malformed")
            digits += c
            at += 1
            if int(digits) > framing.max_size:
                raise Fault("too long")
        size = int(digits)
        frame = _take(stream, at + 1, size + 1)
        if frame[size:] != b",":
            raise Fault("malformed")
        yield frame[:size]
        at += size + 2


@encode.register
def _(framing: iocp_bind.Netstring, message: bytes) -> bytes:
    return b"%d:%s," % (len(message), message)


# ---- Cobs and Slip: byte by byte.


@_cut.register
def _(framing: iocp_bind.Cobs, stream: bytes) -> Iterator[bytes]:
    message, run, zero, inside = bytearray(), 0, False, False
    for byte in stream:
        if run == 0:
            if byte == 0:
                if inside:
                    yield bytes(message)
                message, zero, inside = bytearray(), False, False
                continue
            if zero:
                message.append(0)
            run, zero, inside = byte - 1, byte != 0xFF, True
        elif byte == 0:
            raise Fault("malformed")
        else:
            message.append(byte)
            run -= 1
        if len(message) > framing.max_size:
            raise Fault("too long")
    if inside:
        raise Fault("truncated")


@encode.register
def _(framing: iocp_bind.Cobs, message: bytes) -> bytes:
    encoded = bytearray()
    # Each part had a zero behind it, but for the last.
    for part in message.split(b"\0"):
        full = len(part) // 254 * 254
        for at in range(0, full, 254):
            encoded += b"\xff" + part[at : at + 254]
        encoded += bytes([len(part) - full + 1]) + part[full:]
    # After a full run nothing follows at the end of the message.
    if part and full == len(part):
        del encoded[-1]
    return bytes(encoded) + b"\0"


_END, _ESCAPE, _ESCAPED = 0xC0, 0xDB, {0xDC: 0xC0, 0xDD: 0xDB}


@_cut.register
def _(framing: iocp_bind.Slip, stream: bytes) -> Iterator[bytes]:
    message, escaped = bytearray(), False
    for byte in stream:
        if escaped:
            if byte not in _ESCAPED:
                raise Fault("malformed")
            message.append(_ESCAPED[byte])
            escaped = False
        elif byte == _END:
            if message:
                yield bytes(message)
            message = bytearray()
            continue
        elif byte == _ESCAPE:
            escaped = True
        else:
            message.append(byte)
        if len(message) > framing.max_size:
            raise Fault("too long")
    if message or escaped:
        raise Fault("truncated")


@encode.register
def _(framing: iocp_bind.Slip, message: bytes) -> bytes:
    body = message.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
    return b"\xc0" + body + b"\xc0"
