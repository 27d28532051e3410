"""examples/keyvalue.py, driven by redis-benchmark, by redis-py, and by clients that mean harm."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from support import (
    DEADLINE,
    ON_LINUX,
    REPOSITORY,
    Address,
    Child,
    linux_only,
    open_client,
    recv_exact,
    recv_to_end,
    saw_reset,
    wait_until,
)

if ON_LINUX or TYPE_CHECKING:
    import redis

pytestmark = linux_only

EXAMPLES = REPOSITORY / "examples"
KIB = 1024


@pytest.fixture
def address(backend: str) -> Iterator[Address]:
    """Run it, then end it as Docker does: cleanly, whatever clients have done to it."""
    command = [sys.executable, str(EXAMPLES / "keyvalue.py"), "--port", "0"]
    with Child(command, log_is_output=True, IOCP_BIND_BACKEND=backend) as child:
        host, port = child.listening()
        yield host, port
        child.process.send_signal(signal.SIGTERM)
        done = child.finish()
        assert done.code == 0
        assert done.stdout == f"INFO:iocp_bind:KeyValue has stopped on {host}:{port} with {backend}"


# ---- redis-benchmark.


def _benchmark(address: Address, *arguments: str) -> dict[str, float]:
    """Return requests per second by name of the test."""
    program = shutil.which("redis-benchmark")
    assert program is not None, "redis-benchmark is missing: tools/bootstrap.sh installs it"
    command = [program, "-h", address[0], "-p", str(address[1]), "--csv", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "rror" not in done.stdout
    return {
        name: float(rate) for name, rate in re.findall(r'^"(\w+)","([\d.]+)"', done.stdout, re.M)
    }


@pytest.mark.parametrize(
    ("clients", "pipeline", "count"),
    [(1, 1, 500), (50, 1, 5_000), (50, 16, 20_000), (8, 256, 50_000)],
)
def test_redis_benchmark(address: Address, clients: int, pipeline: int, count: int) -> None:
    arguments = [
        "-t",
        "ping,set,get,incr",
        "-c",
        str(clients),
        "-P",
        str(pipeline),
        "-n",
        str(count),
    ]
    rates = _benchmark(address, *arguments, "-r", "100", "-d", "100")
    assert set(rates) == {"PING_INLINE", "PING_MBULK", "SET", "GET", "INCR"}
    assert min(rates.values()) > 0
    with redis.Redis(*address) as client:
        keys = [b"key:%012d" % number for number in range(100)]
        with client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.get(key)
            values = pipe.execute()
        assert {len(value) for value in values if value is not None} == {100}
        counted = [client.incrby(b"counter:%012d" % number, 0) for number in range(100)]
        assert sum(counted) >= count, "each INCR counts"


# ---- redis-py.


@pytest.fixture(params=[2, 3])
def client(address: Address, request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    with redis.Redis(*address, protocol=request.param, socket_timeout=DEADLINE) as client:
        yield client


def test_strings(client: redis.Redis) -> None:
    assert client.ping()
    assert client.get("key") is None
    for value in (b"", b"value", bytes(range(256)), b"\r\n$5\r\n", bytes(512 * KIB)):
        assert client.set("key", value)
        assert client.get("key") == value
    assert client.delete("key", "other", "key") == 1
    assert client.get("key") is None
    assert [client.incr("n"), client.incr("n", 41)] == [1, 42]
    client.set("n", 2**63 - 2)
    assert client.incr("n") == 2**63 - 1
    with pytest.raises(redis.ResponseError, match="out of range"):
        client.incr("n")
    assert client.get("n") == b"%d" % (2**63 - 1)
    for text in ("", "x", "1.5", str(2**63)):
        client.set("text", text)
        with pytest.raises(redis.ResponseError, match="not an integer"):
            client.incr("text")


def test_keys_expire(client: redis.Redis) -> None:
    client.set("key", "value")
    assert (client.ttl("key"), client.ttl("none")) == (-1, -2)
    assert client.expire("key", 100)
    assert 90 < client.ttl("key") <= 100
    assert 90_000 < client.pttl("key") <= 100_000
    assert not client.expire("none", 100)
    client.set("n", "1", px=100_000)
    client.incr("n")
    assert 90 < client.ttl("n") <= 100, "INCR keeps it"
    client.set("n", "1")
    assert client.ttl("n") == -1, "SET ends it"

    began = time.monotonic()
    client.pexpire("key", 200)
    client.set("other", "value", px=200)
    client.set("longer", "value", ex=100)
    wait_until(lambda: client.get("key") is None and client.get("other") is None, "keys expiring")
    assert time.monotonic() - began >= 0.19
    assert client.get("longer") == b"value"
    assert (client.delete("key"), client.incr("other")) == (0, 1)
    client.expire("longer", -1)
    assert client.get("longer") is None
    with pytest.raises(redis.ResponseError, match="syntax error"):
        client.execute_command("SET", "key", "value", "EX", 0)  # type: ignore[no-untyped-call]


def test_pipelines(client: redis.Redis) -> None:
    with client.pipeline(transaction=False) as pipe:
        for number in range(5_000):
            pipe.set(f"key {number}", number)
            pipe.get(f"key {number}")
            pipe.execute_command("NONSENSE")  # type: ignore[no-untyped-call]
        results = pipe.execute(raise_on_error=False)
    assert results[::3] == [True] * 5_000
    assert results[1::3] == [b"%d" % number for number in range(5_000)]
    assert all("unknown command" in str(error) for error in results[2::3])


def _next_message(subscription: Any) -> Any:
    return subscription.get_message(timeout=DEADLINE)


def test_publish_subscribe(client: redis.Redis, address: Address) -> None:
    """Also between the two versions of the protocol."""
    others = [redis.Redis(*address, protocol=2 + number % 2) for number in range(4)]
    with contextlib.ExitStack() as stack:
        subscriptions = []
        for number, each in enumerate(others):
            stack.enter_context(each)
            subscription: Any = each.pubsub()  # type: ignore[no-untyped-call]
            stack.enter_context(subscription)
            subscription.subscribe("all", f"channel {number}")
            assert [_next_message(subscription)["data"] for _ in range(2)] == [1, 2]
            subscriptions.append(subscription)
        assert client.publish("nobody", "x") == 0
        for number in range(100):
            assert client.publish("all", f"message {number}") == 4
        for number, subscription in enumerate(subscriptions):
            texts = [_next_message(subscription)["data"] for _ in range(100)]
            assert texts == [b"message %d" % each for each in range(100)]
            assert client.publish(f"channel {number}", "only one") == 1
            assert _next_message(subscription)["channel"] == b"channel %d" % number
        subscriptions[0].unsubscribe("all")
        assert _next_message(subscriptions[0])["type"] == "unsubscribe"
        assert client.publish("all", "again") == 3
        assert _next_message(subscriptions[1])["data"] == b"again"
        subscriptions[1].unsubscribe()
        assert {_next_message(subscriptions[1])["channel"] for _ in range(2)} == {
            b"all",
            b"channel 1",
        }
        assert client.publish("all", "again") == 2
    wait_until(lambda: client.publish("all", "x") == 0, "those who left are forgotten")


def test_a_subscriber_that_does_not_read_is_closed_and_harms_nobody(address: Address) -> None:
    with (
        redis.Redis(*address) as client,
        client.pubsub(ignore_subscribe_messages=True) as good,
        open_client(address, receive_buffer=4096) as bad,
    ):
        good.subscribe("news")
        reply = b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"
        assert recv_exact_reply(bad, b"SUBSCRIBE news\r\n", reply)
        wait_until(lambda: client.publish("news", "first") == 2, "two subscribers")
        got = threading.Event()

        def read() -> None:
            while (message := good.get_message(timeout=DEADLINE)) is None or message[
                "data"
            ] != b"last":
                pass
            got.set()

        reader = threading.Thread(target=read)
        reader.start()
        news = bytes(100 * KIB)
        wait_until(lambda: client.publish("news", news) == 1, "the bad one being closed")
        assert client.publish("news", "last") == 1
        assert got.wait(DEADLINE)
        reader.join(DEADLINE)
        assert saw_reset(bad)


def recv_exact_reply(client: socket.socket, request: bytes, reply: bytes) -> bool:
    client.sendall(request)
    return recv_exact(client, len(reply)) == reply


# ---- Clients that mean harm, or type.


@contextmanager
def _harmless(address: Address) -> Iterator[socket.socket]:
    """Give a client for the attack; another one is served before and after it."""
    with redis.Redis(*address, socket_timeout=DEADLINE) as other, open_client(address) as client:
        other.set("kept", "value")
        yield client
        assert other.get("kept") == b"value"


@pytest.mark.parametrize(
    ("attack", "answer"),
    [
        (b"*1000000000\r\n", b"invalid multibulk length"),
        (b"*-1\r\n", b"invalid multibulk length"),
        (b"*99999999999999999999999999\r\n", b"invalid multibulk length"),
        (b"*" + b"9" * 50_000 + b"\r\n", b"invalid multibulk length"),
        (b"*x\r\n", b"invalid multibulk length"),
        (b"*2\r\n$3\r\nGET\r\n$1000000000\r\n", b"invalid bulk length"),
        (b"*2\r\n$3\r\nGET\r\n$-1\r\n", b"invalid bulk length"),
        (b"*1\r\n$\r\n", b"invalid bulk length"),
        (b"*1\r\nGET\r\n", b"expected '$', got b'G'"),
        (b"*2\r\n$3\r\nGET\r\n:1\r\n", b"expected '$', got b':'"),
        (bytes(70_000), b"too big inline request"),
        (b"*1\r\n$" + b"1" * 70_000, b"too big inline request"),
        (b"*9\r\n" + 9 * (b"$500000\r\n" + bytes(500_000) + b"\r\n"), b"too big request"),
    ],
)
def test_an_attack_gets_an_error_and_an_end(address: Address, attack: bytes, answer: bytes) -> None:
    with _harmless(address) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(attack)
        received = b""
        with contextlib.suppress(ConnectionResetError):  # it goes on sending after the end
            received = recv_to_end(client)
        if len(attack) < 1_000_000:
            assert received.startswith(b"-ERR Protocol error: ")
            assert answer in received


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (b"PING\r\n", b"+PONG\r\n"),
        (b"ping hello\n", b"$5\r\nhello\r\n"),
        (b"\r\n\n  \r\nPING\r\n", b"+PONG\r\n"),
        (b"*0\r\nPING\r\n", b"+PONG\r\n"),
        (b"set key value\r\nget key\r\n", b"+OK\r\n$5\r\nvalue\r\n"),
        (b"\x00\xff\x80\r\n", b"-ERR unknown command b'\\x00\\xff\\x80'\r\n"),
        (b"*1\r\n$4\r\n\r\n\r\n\r\n", b"-ERR unknown command b'\\r\\n\\r\\n'\r\n"),
        (b"GET\r\n", b"-ERR wrong number of arguments for b'GET'\r\n"),
        (b"GET a b\r\n", b"-ERR wrong number of arguments for b'GET'\r\n"),
        (b"EXPIRE key soon\r\n", b"-ERR value is not an integer or out of range\r\n"),
        (b"HELLO 4\r\n", b"-ERR unsupported protocol version\r\n"),
        (b"SUBSCRIBE " + b"x" * 2000 + b"\r\n", b"-ERR too many channels, or too long a name\r\n"),
        (b"UNSUBSCRIBE\r\n", b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"),
        (b"CONFIG GET save\r\n", b"*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
        (b"COMMAND\r\n", b"*0\r\n"),
    ],
)
def test_what_is_typed_gets_an_answer(address: Address, typed: bytes, answer: bytes) -> None:
    with _harmless(address) as client:
        assert recv_exact_reply(client, typed, answer)
        assert recv_exact_reply(client, b"PING\r\n", b"+PONG\r\n")


def test_a_command_may_come_in_pieces_of_a_byte(address: Address) -> None:
    command = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$4\r\n\r\n\r\n\r\nGET key\r\n"
    with _harmless(address) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(command)):
            client.sendall(command[at : at + 1])
        answer = b"+OK\r\n$4\r\n\r\n\r\n\r\n"
        assert recv_exact(client, len(answer)) == answer


@pytest.mark.parametrize(
    "half", [b"*3\r\n$3\r\nSET\r\n$3\r\nke", b"*3\r\n", b"PI", b"*1\r\n$4\r\nPING"]
)
def test_half_a_command_is_not_carried_out(address: Address, half: bytes) -> None:
    with _harmless(address) as client:
        client.sendall(half)
        client.shutdown(socket.SHUT_WR)
        assert recv_to_end(client) == b""


def test_a_client_has_a_limited_number_of_channels(address: Address) -> None:
    with _harmless(address) as client:
        for number in range(100):
            client.sendall(b"SUBSCRIBE %d\r\n" % number)
        client.sendall(b"SUBSCRIBE 100\r\n")
        client.shutdown(socket.SHUT_WR)
        received = recv_to_end(client)
        assert received.count(b"subscribe") == 100
        assert received.endswith(b"-ERR too many channels, or too long a name\r\n")


# The real limit would take long to reach.
LIMITED = """
import sys
sys.path.insert(0, sys.argv[1])
import expiring
from resp import CommandError
expiring.MAX_MEMORY = 10_000
class Timer:
    pending = []
    def __init__(self, seconds, function, key):
        self.function, self.key = function, key
        self.pending.append(self)
    def cancel(self):
        self.pending.remove(self)
strings = expiring.Strings(Timer)
stored = 0
try:
    while True:
        strings.store(b"%d" % stored, bytes(100), None)
        stored += 1
except CommandError as error:
    print(error)
assert 25 < stored < 50
strings.store(b"0", bytes(50), None)  # one that takes less
assert strings.find(b"0") == bytes(50)
try:
    strings.store(b"0", bytes(500), None)
except CommandError:
    assert strings.find(b"0") == bytes(50), "a refused one leaves the old one"
for key in list(strings.values):
    strings.drop(key)
assert strings.memory == 0
strings.store(b"key", b"x", -1)
assert strings.find(b"key") is None
assert (strings.memory, strings.deadlines, Timer.pending) == (0, {}, [])
strings.store(b"key", b"x", 100)
strings.store(b"key", b"x", 0)
(timer,) = Timer.pending
timer.function(timer.key)
assert (strings.memory, strings.deadlines, Timer.pending) == (0, {}, []), "nobody looked it up"
"""


def test_what_is_stored_takes_limited_memory() -> None:
    command = [sys.executable, "-c", LIMITED, str(EXAMPLES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "no memory for it\n", "")


def test_a_client_that_asks_and_does_not_read_harms_nobody(address: Address) -> None:
    with _harmless(address) as client:
        client.sendall(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$500000\r\n" + bytes(500_000) + b"\r\n")
        assert recv_exact(client, 5) == b"+OK\r\n"
        client.sendall(b"GET key\r\n" * 100)
        with redis.Redis(*address, socket_timeout=DEADLINE) as other:
            assert all(other.incr("n") == number for number in range(1, 101))
