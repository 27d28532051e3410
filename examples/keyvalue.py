"""A small Redis: strings that expire, publish/subscribe. Try it with ``redis-cli -p 4567``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable

import resp
from expiring import Strings
from resp import CommandError, ProtocolError, bulk, group, integer, number

import iocp_bind
from iocp_bind import CloseReason, Connection, SendBacklogFull

# A peer decides what it sends; we decide how much of it we keep.
MAX_COMMAND = 1024 * 1024
MAX_CHANNELS = 100  # of one client
MAX_CHANNEL_NAME = 1024


class Client:
    """The state of a client, in `conn.data`."""

    def __init__(self) -> None:
        """Begin with version 2 of the protocol, in which a message is an array like a reply."""
        self.rest = b""  # of what it has sent: the beginning of a command
        self.channels: set[bytes] = set()
        self.message_kind, self.null = b"*", resp.NULL_2


class KeyValue(iocp_bind.Server):
    """One worker, the default, calls one hook at a time: there are no locks."""

    def __init__(self) -> None:
        """Begin with nothing stored."""
        super().__init__()
        self.strings = strings = Strings(self.call_later)
        self.subscribers: dict[bytes, set[Connection]] = {}  # of each channel that has any
        # By name: a function, and how many arguments it takes at least and at most.
        self.commands: dict[bytes, tuple[Callable[..., bytes], int, int]] = {
            b"CLIENT": (lambda _, *what: b"+OK\r\n", 1, resp.MAX_ARGUMENTS),
            b"COMMAND": (lambda _, *what: group(b"*"), 0, resp.MAX_ARGUMENTS),
            b"CONFIG": (lambda _, get, name: group(b"*", bulk(name), bulk(b"")), 2, 2),
            b"DEL": (lambda _, *keys: integer(sum(map(strings.drop, keys))), 1, resp.MAX_ARGUMENTS),
            b"EXPIRE": (lambda _, key, n: integer(strings.expire(key, number(n))), 2, 2),
            b"GET": (self.get, 1, 1),
            b"HELLO": (self.hello, 0, 1),
            b"INCR": (self.increment, 1, 1),
            b"INCRBY": (self.increment, 2, 2),
            b"PEXPIRE": (lambda _, key, n: integer(strings.expire(key, number(n) / 1000)), 2, 2),
            b"PING": (self.ping, 0, 1),
            b"PTTL": (lambda _, key: self.time_left(key, 1000), 1, 1),
            b"PUBLISH": (self.publish, 2, 2),
            b"SET": (self.set, 2, 4),
            b"SUBSCRIBE": (self.subscribe, 1, MAX_CHANNELS),
            b"TTL": (lambda _, key: self.time_left(key, 1), 1, 1),
            b"UNSUBSCRIBE": (self.unsubscribe, 0, MAX_CHANNELS),
        }

    def on_connection_established(self, conn: Connection) -> None:
        """Remember nothing of it yet."""
        conn.data = Client()

    def on_read_completed(self, conn: Connection, data: bytes) -> None:
        """Carry out the commands that are whole. Each reply is a send of its own."""
        client: Client = conn.data
        data, at = client.rest + data, 0
        try:
            while found := resp.command_at(data, at):
                arguments, at = found
                if arguments:
                    conn.send(self.execute(conn, arguments))
            if len(data) - at > MAX_COMMAND:
                raise ProtocolError("too big request")
        except ProtocolError as error:
            conn.send(b"-ERR Protocol error: %b\r\n" % str(error).encode())
            conn.close()
        except SendBacklogFull:
            conn.abort()  # it asks for more than it reads
        client.rest = data[at:]

    def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
        """Send it no more messages."""
        self.unsubscribe(conn)

    def execute(self, conn: Connection, arguments: list[bytes]) -> bytes:
        """Return the reply to a command."""
        name, *rest = arguments
        try:
            if (command := self.commands.get(name.upper())) is None:
                raise CommandError(f"unknown command {name[:64]!r}")
            function, least, most = command
            if not least <= len(rest) <= most:
                raise CommandError(f"wrong number of arguments for {name!r}")
            return function(conn, *rest)
        except CommandError as error:
            return b"-ERR %b\r\n" % str(error).encode()

    def hello(self, conn: Connection, version: bytes = b"2") -> bytes:
        """HELLO [2 | 3]: choose the version of the protocol."""
        if version not in (b"2", b"3"):
            raise CommandError("unsupported protocol version")
        client: Client = conn.data
        client.message_kind, client.null = (
            (b"*", resp.NULL_2) if version == b"2" else (b">", resp.NULL_3)
        )
        fields = (bulk(b"server"), bulk(b"keyvalue"), bulk(b"proto"), integer(int(version)))
        return group(b"*" if version == b"2" else b"%", *fields)

    def ping(self, conn: Connection, text: bytes | None = None) -> bytes:
        """PING [text]: a subscriber gets the answer as a message."""
        if conn.data.channels and conn.data.message_kind == b"*":
            return group(b"*", bulk(b"pong"), bulk(text or b""))
        return b"+PONG\r\n" if text is None else bulk(text)

    def get(self, conn: Connection, key: bytes) -> bytes:
        """GET key."""
        value = self.strings.find(key)
        return conn.data.null if value is None else bulk(value)

    def set(self, conn: Connection, key: bytes, value: bytes, *options: bytes) -> bytes:
        """SET key value [EX seconds | PX milliseconds]."""
        seconds = None
        if options:
            unit = {b"EX": 1, b"PX": 1000}.get(options[0].upper())
            if unit is None or len(options) != 2 or number(options[1]) <= 0:
                raise CommandError("syntax error")
            seconds = number(options[1]) / unit
        self.strings.store(key, value, seconds)
        return b"+OK\r\n"

    def increment(self, conn: Connection, key: bytes, by: bytes = b"1") -> bytes:
        """INCR key, INCRBY key n."""
        before = self.strings.find(key)
        value = number(b"0" if before is None else before) + number(by)
        text = b"%d" % number(b"%d" % value)  # it may have become too large
        self.strings.store(key, text, self.strings.time_left(key))
        return integer(value)

    def time_left(self, key: bytes, unit: int) -> bytes:
        """TTL key, PTTL key: -1 is for ever, -2 that there is no such key."""
        if self.strings.find(key) is None:
            return integer(-2)
        seconds = self.strings.time_left(key)
        return integer(-1 if seconds is None else round(seconds * unit))

    def subscribe(self, conn: Connection, *channels: bytes) -> bytes:
        """SUBSCRIBE channel...: the reply is a message for each of them."""
        client: Client = conn.data
        every = client.channels.union(channels)
        if len(every) > MAX_CHANNELS or max(map(len, every)) > MAX_CHANNEL_NAME:
            raise CommandError("too many channels, or too long a name")
        reply = b""
        for channel in channels:
            client.channels.add(channel)
            self.subscribers.setdefault(channel, set()).add(conn)
            count = integer(len(client.channels))
            reply += group(client.message_kind, bulk(b"subscribe"), bulk(channel), count)
        return reply

    def unsubscribe(self, conn: Connection, *channels: bytes) -> bytes:
        """UNSUBSCRIBE [channel...]: from all of them if none is named."""
        client: Client = conn.data
        reply = b""
        for name in channels or [*client.channels] or [b""]:
            if name in client.channels:
                client.channels.remove(name)
                self.subscribers[name].remove(conn)
                if not self.subscribers[name]:
                    del self.subscribers[name]
            count = integer(len(client.channels))
            shown = bulk(name) if name else client.null
            reply += group(client.message_kind, bulk(b"unsubscribe"), shown, count)
        return reply

    def publish(self, conn: Connection, channel: bytes, text: bytes) -> bytes:
        """PUBLISH channel text: a subscriber that does not read its messages is closed."""
        count = 0
        for subscriber in list(self.subscribers.get(channel, ())):
            kind = subscriber.data.message_kind
            try:
                count += subscriber.send(group(kind, bulk(b"message"), bulk(channel), bulk(text)))
            except SendBacklogFull:
                subscriber.abort()
        return integer(count)


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4567)
    port: int = parser.parse_args().port
    logging.basicConfig(level=logging.INFO)  # says where it listens
    KeyValue().run(port=port)


if __name__ == "__main__":
    main()
