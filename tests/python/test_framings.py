"""Each framing, both ways through a real server: every split, and against a plain reference."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, asdict, fields, replace
from typing import Any

import pytest
from support import (
    KINDS,
    Connect,
    EachMessage,
    Feeder,
    Lists,
    Messages,
    Quiet,
    QuietLists,
    Serve,
    recv_exact,
)
from support.framings import cut, encode

import iocp_bind
from iocp_bind import (
    CloseReason,
    Cobs,
    Connection,
    Delimiter,
    FixedSize,
    FrameError,
    Framing,
    LengthPrefix,
    Netstring,
    Slip,
    VarintPrefix,
)

TEXTS = [b"one", b"", b"three and more", b"x" * 20]
BINARY = [b"\0", b"\xc0\xdb\0", b"a\0\0b", b"\xdb\xdc" * 3]

# name: (framing, messages that it carries)
FRAMINGS: dict[str, tuple[Framing, list[bytes]]] = {
    "length": (LengthPrefix(4), TEXTS + BINARY),
    "length-1": (LengthPrefix(1), TEXTS),
    "length-2-little": (LengthPrefix(2, "little"), TEXTS),
    "length-3": (LengthPrefix(3), TEXTS),
    "length-8-little": (LengthPrefix(8, "little"), TEXTS),
    "length-of-the-frame": (LengthPrefix(2, adjust=-2), TEXTS),
    "length-adjusted": (LengthPrefix(1, adjust=3), [b"abc", b"defgh"]),
    "length-kept": (LengthPrefix(2, strip=0), [b"\0\3abc", b"\0\0", b"\0\1x"]),
    "length-behind-a-tag": (LengthPrefix(1, offset=2), [b"T1\3abc", b"T2\0", b"T3\1x"]),
    "line": (Delimiter(b"\n"), TEXTS),
    "two-ends": (Delimiter(b"\r\n", b"\n"), TEXTS),
    "long-end": (Delimiter(b"--end--"), [b"-", b"--en", *TEXTS]),
    "nested-ends": (Delimiter(b"\n", b"\r\n\r\n"), TEXTS),
    "kept-end": (Delimiter(b";", keep=True), [b"one;", b";", b"three;"]),
    "fixed": (FixedSize(5), [b"12345", b"\0" * 5, b"abcde"]),
    "fixed-1": (FixedSize(1), [b"1", b"2", b"3"]),
    "varint": (VarintPrefix(), [*TEXTS, b"y" * 130]),
    "netstring": (Netstring(), TEXTS + BINARY),
    "cobs": (Cobs(), TEXTS + BINARY),
    "cobs-runs": (Cobs(), [b"a" * 253, b"b" * 254, b"c" * 255, b"d" * 254 + b"\0"]),
    "slip": (Slip(), [text for text in TEXTS + BINARY if text]),
}


def stream_of(framing: Framing, messages: list[bytes]) -> bytes:
    return b"".join(encode(framing, message) for message in messages)


def _echo(conn: Connection, messages: list[Any]) -> None:
    if len(messages) == 1:
        conn.send_message(messages[0])
    else:
        conn.send_messages(messages)


@KINDS
@pytest.mark.parametrize("name", FRAMINGS)
def test_every_split(serve: Serve, connect: Connect, kind: type[Messages], name: str) -> None:
    framing, messages = FRAMINGS[name]
    stream = stream_of(framing, messages)
    server = serve(kind(), framing=framing)
    client = connect(server)
    conn = server.wait_connection()
    feeder = Feeder(client, conn)
    count = 0
    # Past 150 bytes every seventh place, and the last ones.
    splits = [i for i in range(len(stream)) if i < 150 or i % 7 == 0 or len(stream) - i < 10]
    for split in splits:
        feeder.feed(stream[:split], stream[split:])
        count += len(messages)
        assert server.wait_messages(conn, count)[-len(messages) :] == messages, split
    feeder.feed(*[stream[i : i + 1] for i in range(len(stream))])
    assert server.wait_messages(conn, count + len(messages))[count:] == messages
    assert server.stats().messages == count + len(messages)
    client.close()
    assert server.wait_closed(conn) is CloseReason.PEER_CLOSED
    assert "read" not in server.hooks_of(conn)


# Without on_write_completed large messages are sent from where they are.
@pytest.mark.parametrize("kind", [EachMessage, Lists, Quiet, QuietLists])
@pytest.mark.parametrize("name", FRAMINGS)
def test_there_and_back(serve: Serve, connect: Connect, kind: type[Messages], name: str) -> None:
    framing, messages = FRAMINGS[name]
    stream = stream_of(framing, messages)
    server = serve(kind(_echo), framing=framing)
    client = connect(server)
    client.sendall(stream * 3)
    assert recv_exact(client, len(stream) * 3) == stream * 3
    assert server.messages_of(server.wait_connection()) == messages * 3


LARGE = 3_000_000
LARGE_FRAMINGS: dict[str, Framing] = {
    "length": LengthPrefix(max_size=LARGE),
    "line": Delimiter(b"\n", max_size=LARGE),
    "two-ends": Delimiter(b"\r\n", b"\n", max_size=LARGE),
    "fixed": FixedSize(LARGE),
    "varint": VarintPrefix(max_size=LARGE),
    "netstring": Netstring(max_size=LARGE),
    "cobs": Cobs(max_size=LARGE),
    "slip": Slip(max_size=LARGE),
}


@pytest.mark.parametrize("zero_copy", [False, True])
@pytest.mark.parametrize("kind", [EachMessage, QuietLists])
@pytest.mark.parametrize("name", LARGE_FRAMINGS)
def test_a_message_larger_than_every_buffer(
    serve: Serve, connect: Connect, kind: type[Messages], name: str, zero_copy: bool
) -> None:
    framing = LARGE_FRAMINGS[name]
    message = bytes(range(11, 251)) * (LARGE // 240)
    stream = encode(framing, message)
    options = {"send_backlog_limit": 1 << 30, "zero_copy": zero_copy}
    server = serve(kind(_echo), framing=framing, **options)
    client = connect(server)
    for _ in range(2):
        # The server echoes what is complete, so nobody has to read meanwhile.
        client.sendall(stream)
        assert recv_exact(client, len(stream)) == stream
    assert server.messages_of(server.wait_connection()) == [message] * 2


def test_a_list_has_at_most_4096_messages(serve: Serve, connect: Connect) -> None:
    server = serve(Lists(), framing=FixedSize(1), buffer_size=1 << 20)
    client = connect(server)
    conn = server.wait_connection()
    for _ in range(8):
        client.sendall(b"x" * 20_000)
    server.wait_messages(conn, 160_000)
    lists = [event.value for event in server.of("list")]
    assert max(lists) <= 4096
    assert max(lists) > 1
    assert server.stats().messages == sum(lists) == 160_000


def test_hooks_own_what_they_get(serve: Serve, connect: Connect) -> None:
    """The list may be changed and kept, and the messages stay as they are."""
    kept: list[list[bytes]] = []

    def keep(conn: Connection, messages: list[bytes]) -> None:
        kept.append(messages)
        messages.append(b"mine")

    server = serve(Lists(keep), framing=Delimiter(b"\n"))
    client = connect(server)
    conn = server.wait_connection()
    for i in range(20):
        client.sendall(b"%d\n" % i)
        server.wait_messages(conn, i + 1)
    assert kept == [[b"%d" % i, b"mine"] for i in range(20)]


# ---- The end of the stream.


@KINDS
@pytest.mark.parametrize("name", FRAMINGS)
def test_an_end_of_stream_inside_a_message(
    serve: Serve, connect: Connect, kind: type[Messages], name: str
) -> None:
    framing, messages = FRAMINGS[name]
    stream = stream_of(framing, messages)
    server = serve(kind(), framing=framing)
    for split in range(1, min(len(stream), 60)):
        expected = cut(framing, stream[:split])
        client = connect(server)
        conn = server.wait_connection(split - 1)
        client.sendall(stream[:split])
        client.close()
        reason = server.wait_closed(conn)
        assert server.messages_of(conn) == expected.messages, split
        hooks = server.hooks_of(conn)
        if expected.fault is None:
            assert (reason, "error" in hooks) == (CloseReason.PEER_CLOSED, False), split
            continue
        assert expected.fault.kind == "truncated"
        assert reason is CloseReason.FRAME_ERROR, split
        assert hooks[-2:] == ["error", "closing"]
        (error,) = [event.value for event in server.of_connection(conn) if event.hook == "error"]
        assert isinstance(error, FrameError)
        assert str(error) == "the peer ended its stream inside a message"
        assert (error.announced, error.limit) == (None, None)


def test_the_end_of_the_stream_decides_about_a_delimiter(serve: Serve, connect: Connect) -> None:
    """The last bytes could be the beginning of a longer one, until nothing follows."""
    server = serve(EachMessage(), framing=Delimiter(b"\r", b"\r\n"))
    client = connect(server)
    conn = server.wait_connection()
    Feeder(client, conn).feed(b"one\rtwo\r")
    assert server.wait_messages(conn, 1) == [b"one"]
    client.close()
    assert server.wait_closed(conn) is CloseReason.PEER_CLOSED
    assert server.messages_of(conn) == [b"one", b"two"]


# ---- The objects.

REPRS = {
    "LengthPrefix(size=4, byteorder='big', offset=0, adjust=0, strip=None, max_size=1048576)": (
        LengthPrefix()
    ),
    "LengthPrefix(size=2, byteorder='little', offset=1, adjust=-3, strip=0, max_size=9)": (
        LengthPrefix(2, "little", offset=1, adjust=-3, strip=0, max_size=9)
    ),
    r"Delimiter(b'\r\n', b'\n', keep=True, max_size=65536)": Delimiter(b"\r\n", b"\n", keep=True),
    "FixedSize(size=5)": FixedSize(5),
    "VarintPrefix(max_size=1048576)": VarintPrefix(),
    "Netstring(max_size=7)": Netstring(7),
    "Cobs(max_size=65536)": Cobs(),
    "Slip(max_size=65536)": Slip(),
}


@pytest.mark.parametrize("text", REPRS)
def test_a_framing_is_a_value(text: str) -> None:
    framing = REPRS[text]
    assert repr(framing) == text
    again = eval(text, vars(iocp_bind))
    for same in (again, copy.copy(framing), copy.deepcopy(framing), replace(framing)):
        assert same == framing
        assert hash(same) == hash(framing)
        # A broadcast encodes a message once for all of them.
        assert getattr(same, "_native") is getattr(framing, "_native")  # noqa: B009
    assert [*asdict(framing)] == [field.name for field in fields(framing)]
    assert pickle.loads(pickle.dumps(framing)) == framing
    assert [other for other in REPRS.values() if other == framing] == [framing]
    field = text.partition("(")[2].partition("=")[0]
    with pytest.raises(FrozenInstanceError):
        setattr(framing, field if field.isidentifier() else "keep", 1)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "size=5": (lambda: LengthPrefix(5), ValueError, "size must be 1, 2, 3, 4 or 8, not 5"),
    "size='4'": (lambda: LengthPrefix("4"), TypeError, "size must be an int, not str"),  # type: ignore[arg-type]
    "size=True": (lambda: LengthPrefix(True), TypeError, "size must be an int, not bool"),
    "byteorder": (lambda: LengthPrefix(4, "middle"), ValueError, "must be 'big' or 'little'"),  # type: ignore[arg-type]
    "offset=-1": (lambda: LengthPrefix(offset=-1), ValueError, "offset must not be negative"),
    "offset=1025": (lambda: LengthPrefix(offset=1025), ValueError, "offset must be between 0 and"),
    "adjust=2**41": (lambda: LengthPrefix(adjust=2**41), ValueError, "adjust must be between -"),
    "adjust=2**70": (lambda: LengthPrefix(adjust=2**70), ValueError, "adjust is out of range"),
    "adjust=0.5": (lambda: LengthPrefix(adjust=0.5), TypeError, "adjust must be an int"),  # type: ignore[arg-type]
    "strip=-1": (lambda: LengthPrefix(strip=-1), ValueError, "strip must not be negative"),
    "strip=2049": (lambda: LengthPrefix(strip=2049), ValueError, "strip must be between 0 and"),
    "max_size=0": (lambda: LengthPrefix(max_size=0), ValueError, "max_size must be between 1 and"),
    "max_size": (lambda: Netstring(2**40 + 1), ValueError, "max_size must be between 1 and"),
    "max_size=None": (lambda: Cobs(None), TypeError, "max_size must be an int"),  # type: ignore[arg-type]
    "varint": (lambda: VarintPrefix(-1), ValueError, "max_size must not be negative"),
    "slip": (lambda: Slip(max_size=0), ValueError, "max_size must be between 1 and"),
    "none": (Delimiter, ValueError, "the number of delimiters must be between 1 and 16, not 0"),
    "17": (lambda: Delimiter(*[b"x"] * 17), ValueError, "the number of delimiters must be between"),
    "empty": (lambda: Delimiter(b""), ValueError, "the length of a delimiter must be between 1"),
    "65": (lambda: Delimiter(b"x" * 65), ValueError, "the length of a delimiter must be between"),
    "text": (lambda: Delimiter("\n"), TypeError, "a delimiter must be bytes, not str"),  # type: ignore[arg-type]
    "keep=1": (lambda: Delimiter(b"\n", keep=1), TypeError, "keep must be a bool, not int"),  # type: ignore[arg-type]
    "fixed=0": (lambda: FixedSize(0), ValueError, "size must be between 1 and 1073741824, not 0"),
    "fixed": (lambda: FixedSize(2**30 + 1), ValueError, "size must be between 1 and 1073741824"),
    "abstract": (Framing, TypeError, "Framing is abstract: use iocp_bind.LengthPrefix"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_parameter_is_refused(case: str) -> None:
    make, error, sentence = REFUSED[case]
    with pytest.raises(error) as caught:
        make()
    assert sentence in str(caught.value)
