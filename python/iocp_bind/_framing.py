"""Framings: how a stream of bytes is cut into messages, and how messages are sent."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Literal
from weakref import WeakValueDictionary

from iocp_bind import _core

_MAX_MESSAGE = 1024 * 1024
_MAX_LINE = 64 * 1024


_natives: WeakValueDictionary[tuple[object, ...], _core.NativeFraming] = WeakValueDictionary()


def _check_integer(name: str, value: object, *, signed: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < 0 and not signed:
        raise ValueError(f"{name} must not be negative, as {value} is")
    if abs(value) > sys.maxsize:
        raise ValueError(f"{name} is out of range: {value}")


def _check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}")


@dataclass(frozen=True)
class Framing:
    """The base of all framings. Immutable; any number of servers and threads share one.

    Use one of the subclasses. In all of them `max_size` is the most bytes that a message may
    have as the hook gets it, up to 1 TiB. A client that announces or sends more is closed with
    `CloseReason.FRAME_ERROR`. Memory grows with the bytes that have come, never with the length
    that was announced.

    Raises:
        ValueError: a parameter is out of its range.
        TypeError: a parameter is of the wrong kind.
    """

    def __post_init__(self) -> None:
        """Make the native part, which checks the parameters."""
        native = self._make()
        # Equal framings share it: a message is encoded once for all of their connections.
        key = (type(self), *(getattr(self, field.name) for field in dataclasses.fields(self)))
        object.__setattr__(self, "_native", _natives.setdefault(key, native))

    def _make(self) -> _core.NativeFraming:
        raise TypeError("Framing is abstract: use iocp_bind.LengthPrefix or another framing")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and copy it by its parameters."""
        fields = [field.name for field in dataclasses.fields(self)]
        return _restore, (type(self), {name: getattr(self, name) for name in fields})


def _restore(kind: type[Framing], parameters: dict[str, object]) -> Framing:
    return kind(**parameters)


@dataclass(frozen=True)
class LengthPrefix(Framing):
    """A length in front of each message.

    Args:
        size: bytes of the length: 1, 2, 3, 4 or 8.
        byteorder: of the length.
        offset: bytes in front of the length, up to 1024.
        adjust: added to the length, which then is how many bytes follow the length field. It is
            ``-(offset + size)`` for a protocol whose length counts the whole frame.
        strip: bytes that are removed from the front of the frame, up to 2048. By default that is
            the whole header if `offset` is 0, and nothing otherwise.
        max_size: the most bytes of a message.

    `Connection.send_message` makes the header again if `offset` is 0 and just the length is
    stripped. If nothing is stripped the message is the frame. Otherwise send frames with
    `Connection.send`.
    """

    size: int = 4
    byteorder: Literal["big", "little"] = "big"
    offset: int = dataclasses.field(default=0, kw_only=True)
    adjust: int = dataclasses.field(default=0, kw_only=True)
    strip: int | None = dataclasses.field(default=None, kw_only=True)
    max_size: int = dataclasses.field(default=_MAX_MESSAGE, kw_only=True)

    def _make(self) -> _core.NativeFraming:
        for name in ("size", "offset", "max_size"):
            _check_integer(name, getattr(self, name))
        _check_integer("adjust", self.adjust, signed=True)
        if self.strip is not None:
            _check_integer("strip", self.strip)
        if self.byteorder not in ("big", "little"):
            raise ValueError(f"byteorder must be 'big' or 'little', not {self.byteorder!r}")
        if self.size not in (1, 2, 3, 4, 8):
            raise ValueError(f"size must be 1, 2, 3, 4 or 8, not {self.size}")
        little = self.byteorder == "little"
        return _core._length_prefix(
            self.size, little, self.offset, self.adjust, self.strip, self.max_size
        )


@dataclass(frozen=True, init=False)
class Delimiter(Framing):
    r"""A delimiter behind each message, such as ``b"\n"``.

    With several delimiters the one that begins first counts, and of those that begin at one
    place the longest. So ``Delimiter(b"\r\n", b"\n")`` takes lines of both kinds, and neither
    end is part of a message.

    Args:
        delimiters: 1 to 16 of them, each of 1 to 64 bytes. `Connection.send_message` adds the
            first one.
        keep: whether a message keeps its delimiter. Messages to be sent then have one as well.
        max_size: the most bytes of a message, without its delimiter.
    """

    delimiters: tuple[bytes, ...]
    keep: bool
    max_size: int

    # Not called `delimiters`, which dataclasses.replace gives by that name.
    def __init__(
        self,
        *one_by_one: bytes,
        keep: bool = False,
        max_size: int = _MAX_LINE,
        delimiters: tuple[bytes, ...] = (),
    ) -> None:
        """Take the delimiters one after the other, or as a tuple."""
        object.__setattr__(self, "delimiters", (*one_by_one, *delimiters))
        object.__setattr__(self, "keep", keep)
        object.__setattr__(self, "max_size", max_size)
        self.__post_init__()

    def __repr__(self) -> str:
        """Return it as it could be made again."""
        delimiters = ", ".join(map(repr, self.delimiters))
        return f"Delimiter({delimiters}, keep={self.keep}, max_size={self.max_size})"

    def _make(self) -> _core.NativeFraming:
        for delimiter in self.delimiters:
            if not isinstance(delimiter, bytes):
                raise TypeError(
                    f"a delimiter must be bytes, not {type(delimiter).__name__}: "
                    'Delimiter(b"\\r\\n", b"\\n", max_size=1000) has two of them'
                )
        _check_bool("keep", self.keep)
        _check_integer("max_size", self.max_size)
        return _core._delimiter(list(self.delimiters), self.keep, self.max_size)


@dataclass(frozen=True)
class FixedSize(Framing):
    """Messages of `size` bytes each, up to 1 GiB."""

    size: int

    def _make(self) -> _core.NativeFraming:
        _check_integer("size", self.size)
        return _core._fixed_size(self.size)


@dataclass(frozen=True)
class VarintPrefix(Framing):
    """A varint in front of each message, as protobuf writes it: at most 10 bytes."""

    max_size: int = _MAX_MESSAGE

    def _make(self) -> _core.NativeFraming:
        _check_integer("max_size", self.max_size)
        return _core._varint_prefix(self.max_size)


@dataclass(frozen=True)
class Netstring(Framing):
    """Netstrings: the length in decimal digits, a colon, the message, a comma."""

    max_size: int = _MAX_MESSAGE

    def _make(self) -> _core.NativeFraming:
        _check_integer("max_size", self.max_size)
        return _core._netstring(self.max_size)


@dataclass(frozen=True)
class Cobs(Framing):
    """Consistent Overhead Byte Stuffing: encoded messages without a zero, and one behind each.

    Zeros with nothing between them are skipped.
    """

    max_size: int = _MAX_LINE

    def _make(self) -> _core.NativeFraming:
        _check_integer("max_size", self.max_size)
        return _core._cobs(self.max_size)


@dataclass(frozen=True)
class Slip(Framing):
    """SLIP, RFC 1055: encoded messages with an END behind each.

    ENDs with nothing between them are skipped, so there is no empty message.
    `Connection.send_message` also puts an END in front, as the RFC advises.
    """

    max_size: int = _MAX_LINE

    def _make(self) -> _core.NativeFraming:
        _check_integer("max_size", self.max_size)
        return _core._slip(self.max_size)
