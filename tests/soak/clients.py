"""The clients of the soak, of all kinds, in a process of their own.

    clients.py polite|chaos '{"port": ..., "seed": ..., "seconds": ..., "timeouts": {...}}'

Prints a line of JSON a second and one at the end; see `Tally.report`. A polite client that is not
served exactly and in time, or a chaotic one that gets a byte it did not send, or that is not
treated as the server's timeouts promise, is a failure. Nothing a server does ends this program
early.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import random
import resource
import socket
import struct
import sys
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

PATIENCE = 10.0
"""Seconds that anything may be late before somebody has been forgotten."""
RANDOM_BYTES = random.Random(0).randbytes(1 << 22)
"""The bytes that all send, each from places of its own: a lost, doubled or moved piece shows."""
MOST = 1 << 17
"""Bytes of the longest message."""
CHUNK = 1 << 16
SLOW_READERS_BUFFER = 4096
STORM, STORM_PAUSE = 100, 2.0
"""So many clients come at once; seconds between one storm and the next."""
HOARD, HOARD_LASTS, HOARD_PAUSE = 500, 3.0, 12.0
"""The same, and how long they stay."""


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """The server's, in seconds."""

    first_data_timeout: float
    idle_timeout: float
    write_timeout: float
    close_timeout: float


Kind = Callable[["Soak", random.Random], Awaitable[None]]


class Failed(Exception):
    """The server did what it must not do."""


class Tally:
    """The events so far, counted."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self.served: Counter[str] = Counter({kind.__name__: 0 for kind in kinds})
        """Clients by kind that met with what they should."""
        self.failures: list[str] = []
        self.failed = 0
        self.echoed = 0
        self.open = 0
        self.latencies = array("d")
        self.reported = 0
        self.slowest_connect = 0.0
        self.stall = 0.0
        """Seconds for which this process stood still, at the most: no client could act then."""

    def fail(self, message: str) -> None:
        self.failed += 1
        if len(self.failures) < 20:
            self.failures.append(message)

    def report(self) -> None:
        """The counters since the start; latencies of exchanges since the last report."""
        print(json.dumps(self._counters(self.latencies[self.reported :])), flush=True)
        self.reported = len(self.latencies)

    def report_all(self) -> None:
        """The last line: latencies of the whole run, and what went wrong."""
        last = {"failures": self.failures, "served": self.served}
        print(json.dumps(self._counters(self.latencies) | last), flush=True)

    def _counters(self, latencies: array[float]) -> dict[str, Any]:
        ordered = sorted(latencies)
        milliseconds = {
            f"p{percent:g}_ms": 1e3
            * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
            for percent in (50.0, 99.0, 99.9, 100.0)
            if ordered
        }
        return {
            "time": time.time(),
            "open": self.open,
            "exchanges": len(ordered),
            "echoed": self.echoed,
            "failed": self.failed,
            "slowest_connect_s": self.slowest_connect,
            "stall_s": self.stall,
        } | milliseconds


class Client:
    """One connection. Received bytes are checked against the sent ones, one by one."""

    def __init__(self, soak: Soak, rng: random.Random, receive_buffer: int | None = None) -> None:
        self.soak = soak
        self.rng = rng
        self.loop = asyncio.get_running_loop()
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sent = bytearray()
        """Bytes that were given to the system, or are about to be, and have not come back."""
        self.active_at = 0.0
        """Before it last did something that the server sees."""

    async def __aenter__(self) -> Self:
        began = self.active_at = self.loop.time()
        try:
            await self.loop.sock_connect(self.socket, self.soak.address)
        except BaseException:
            self.socket.close()
            raise
        self.soak.tally.open += 1
        self.port = self.socket.getsockname()[1]
        self.connected_at = self.loop.time()
        took = self.connected_at - began
        self.soak.tally.slowest_connect = max(self.soak.tally.slowest_connect, took)
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.soak.tally.open -= 1
        if error is not None:
            age = self.loop.time() - self.connected_at
            error.add_note(f"from port {self.port}, {age:.3f} s after it connected")
        self.socket.close()

    def message(self, most: int = MOST) -> memoryview:
        """Random bytes of a random length: as many short ones as long ones."""
        size = int(most ** self.rng.random())
        start = self.rng.randrange(len(RANDOM_BYTES) - size)
        return memoryview(RANDOM_BYTES)[start : start + size]

    async def send(self, data: memoryview) -> None:
        self.sent += data
        await self.loop.sock_sendall(self.socket, data)

    async def receive(self, most: int = CHUNK) -> int:
        """How many bytes came; 0 at the end of the stream."""
        data = await self.loop.sock_recv(self.socket, most)
        if not self.sent.startswith(data):
            due = self.sent[: len(data)]
            wrong = next((i for i, byte in enumerate(due) if byte != data[i]), len(due))
            raise Failed(f"of {len(data)} bytes, {len(due)} of them due, byte {wrong} is wrong")
        del self.sent[: len(data)]
        self.soak.tally.echoed += len(data)
        return len(data)

    async def receive_all(self) -> None:
        """Until all that was sent has come back."""
        while self.sent:
            if not await self.receive():
                raise Failed(f"the stream ended {len(self.sent)} bytes early")

    async def receive_to_end(self) -> None:
        while await self.receive():
            pass

    async def exchange(self, data: memoryview) -> None:
        """Send and receive the same; both at once where the system's buffers may be too small."""
        async with self.soak.in_time("an echo"):
            if len(data) <= CHUNK // 4:
                await self.send(data)
                await self.receive_all()
            else:
                self.sent += data  # before anything can come back
                await asyncio.gather(self.loop.sock_sendall(self.socket, data), self.receive_all())

    async def end(self) -> None:
        """In order: our end, and then the server's."""
        self.socket.shutdown(socket.SHUT_WR)
        async with self.soak.in_time("the end of the stream"):
            await self.receive_to_end()
        if self.sent:
            raise Failed(f"the stream ended {len(self.sent)} bytes early")

    def reset(self) -> None:
        """Closing resets from now on."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def nap(self, most: float) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, most))


class Soak:
    """All clients of this process."""

    def __init__(
        self, kinds: dict[Kind, int], port: int, seed: str, seconds: float, timeouts: Timeouts
    ) -> None:
        self.kinds = kinds
        self.address = ("127.0.0.1", port)
        self.seed = seed
        self.timeouts = timeouts
        self.tally = Tally(kinds)
        self.stop_at = asyncio.get_running_loop().time() + seconds

    @property
    def is_over(self) -> bool:
        return asyncio.get_running_loop().time() >= self.stop_at

    @contextlib.asynccontextmanager
    async def in_time(self, what: str, seconds: float = 0.0) -> AsyncIterator[None]:
        """Failed when the block takes `PATIENCE` longer than `seconds`."""
        try:
            async with asyncio.timeout(seconds + PATIENCE):
                yield
        except TimeoutError:
            raise Failed(f"{what} did not come within {seconds + PATIENCE:g} s") from None

    async def again_and_again(self, kind: Kind, index: int) -> None:
        """A client of this kind after the other."""
        for number in itertools.count():
            if self.is_over:
                return
            name = f"{kind.__name__} {index}.{number}"
            rng = random.Random(f"{self.seed} {name}")
            await asyncio.sleep(rng.uniform(0.0, 0.5))
            try:
                await kind(self, rng)
                self.tally.served[kind.__name__] += 1
            except (Failed, OSError) as error:
                notes = ", ".join(getattr(error, "__notes__", []))
                self.tally.fail(f"{name}: {error!r}, {notes}")
            await asyncio.sleep(PAUSES.get(kind, 0.0))

    async def run(self, stop_at_once: bool) -> None:
        clients = [
            asyncio.create_task(self.again_and_again(kind, index))
            for kind, count in self.kinds.items()
            for index in range(count)
        ]
        report_at = asyncio.get_running_loop().time()
        while not self.is_over:
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(0.05)
            now = asyncio.get_running_loop().time()
            self.tally.stall = max(self.tally.stall, now - began - 0.05)
            if now >= report_at + 1.0:
                report_at = now
                self.tally.report()
        if stop_at_once:
            for client in clients:
                client.cancel()
        for result in await asyncio.gather(*clients, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        self.tally.report_all()


# ---- Polite clients: every byte and every end must be right, and in time.


async def long_lived(soak: Soak, rng: random.Random) -> None:
    """Talks until the end."""
    async with Client(soak, rng) as client:
        await client.exchange(client.message())  # may have to wait until it is accepted
        while not soak.is_over:
            await client.nap(0.04)
            data = client.message()
            began = client.loop.time()
            await client.exchange(data)
            soak.tally.latencies.append(client.loop.time() - began)
        await client.end()


async def visitor(soak: Soak, rng: random.Random) -> None:
    """Comes, talks a little, leaves in order."""
    async with Client(soak, rng) as client:
        for _ in range(rng.randint(1, 5)):
            await client.exchange(client.message())
            await client.nap(0.05)
        await client.end()


# ---- Chaotic ones: what they get must be the beginning of what they sent, and the server gets rid
# of those that its timeouts are for.


async def slow_reader(soak: Soak, rng: random.Random) -> None:
    """Asks for much and takes it in drops, but takes it."""
    async with Client(soak, rng, SLOW_READERS_BUFFER) as client:

        async def take() -> None:
            while client.sent:
                if not await client.receive(rng.randint(1, SLOW_READERS_BUFFER)):
                    raise Failed(f"the stream ended {len(client.sent)} bytes early")
                await client.nap(0.05)

        data = client.message()
        client.sent += data
        async with soak.in_time("a slow reader's echo", 20.0):
            await asyncio.gather(client.loop.sock_sendall(client.socket, data), take())
        await client.end()


async def silent(soak: Soak, rng: random.Random) -> None:
    """Says nothing and is shown the door, in order and not too early."""
    await _expect_end(soak, rng, soak.timeouts.first_data_timeout, speaks=False)


async def falls_silent(soak: Soak, rng: random.Random) -> None:
    """The same after some words."""
    await _expect_end(soak, rng, soak.timeouts.idle_timeout, speaks=True)


async def _expect_end(soak: Soak, rng: random.Random, timeout: float, speaks: bool) -> None:
    async with Client(soak, rng) as client:
        if speaks:
            client.active_at = client.loop.time()
            await client.exchange(client.message(CHUNK // 8))
        async with soak.in_time("the end by a timeout", timeout):
            await client.receive_to_end()
        silence = client.loop.time() - client.active_at
        if silence < timeout:
            raise Failed(f"closed after {silence:.3f} s of silence, too early")


async def half_closer(soak: Soak, rng: random.Random) -> None:
    """Sends, ends its stream, and only then looks: everything is still there."""
    async with Client(soak, rng) as client:
        for _ in range(rng.randint(1, 8)):
            await client.send(client.message(CHUNK // 8))
        await client.nap(0.1)
        await client.end()


async def deaf(soak: Soak, rng: random.Random) -> None:
    """Sends much, ends its stream and never looks: dropped once the time for closing is over."""
    async with Client(soak, rng, SLOW_READERS_BUFFER) as client:
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(1.0):
                await _flood(client)
        client.socket.shutdown(socket.SHUT_WR)
        await asyncio.sleep(soak.timeouts.close_timeout)
        await _read_what_is_left(client)


async def flooder(soak: Soak, rng: random.Random) -> None:
    """Sends and sends and never looks: dropped once it has taken nothing for `write_timeout`."""
    async with Client(soak, rng, SLOW_READERS_BUFFER) as client:
        async with soak.in_time("the end of a flood", soak.timeouts.write_timeout + 20.0):
            with contextlib.suppress(ConnectionError):
                await _flood(client)
        await _read_what_is_left(client)


async def _flood(client: Client) -> None:
    while True:
        await client.send(memoryview(RANDOM_BYTES)[:CHUNK])
        await asyncio.sleep(0)  # a send that succeeds at once lets nobody else have a turn


async def _read_what_is_left(client: Client) -> None:
    async with client.soak.in_time("the end of what was not read"):
        with contextlib.suppress(ConnectionError):
            await client.receive_to_end()


async def one_byte_writer(soak: Soak, rng: random.Random) -> None:
    """A byte at a time, some of them close together, answered exactly."""
    async with Client(soak, rng) as client:
        data = client.message(500)
        for i in range(len(data)):
            await client.send(data[i : i + 1])
            if rng.random() < 0.5:
                async with soak.in_time("an echoed byte"):
                    await client.receive_all()
        await client.end()


async def resetter(soak: Soak, rng: random.Random) -> None:
    """Breaks the connection: at once, in the middle of sending or receiving, or behind its end."""
    async with Client(soak, rng) as client:
        client.reset()
        stage = rng.randrange(5)
        if stage == 0:
            return
        await client.nap(0.05)
        data = client.message()
        client.sent += data
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE if stage > 1 else 0.001):
                await client.loop.sock_sendall(client.socket, data)
        if stage >= 3:
            async with soak.in_time("an echo"):
                await client.receive(rng.randint(1, CHUNK))
        if stage == 4:
            client.socket.shutdown(socket.SHUT_WR)


async def storm(soak: Soak, rng: random.Random) -> None:
    """Many come at once; some leave at once, some break off, some want an answer first."""

    async def one() -> None:
        async with Client(soak, rng) as client:
            kind = rng.randrange(3)
            if kind == 0:
                client.reset()
            elif kind == 1:
                await client.exchange(client.message(100))
                await client.end()

    await asyncio.gather(*(one() for _ in range(STORM)))


async def hoard(soak: Soak, rng: random.Random) -> None:
    """More come than the server has descriptors for, and stay; in the end each has been served."""
    leave_at = asyncio.get_running_loop().time() + HOARD_LASTS

    async def one() -> None:
        async with Client(soak, rng) as client:
            async with soak.in_time("an echo after descriptors ran out", HOARD_LASTS):
                await client.send(client.message(1))
                await client.receive_all()
            await asyncio.sleep(leave_at - client.loop.time())

    await asyncio.gather(*(one() for _ in range(HOARD)))


PAUSES: dict[Kind, float] = {storm: STORM_PAUSE, hoard: HOARD_PAUSE}
"""Seconds after a client of this kind until the next."""
KINDS: dict[str, dict[Kind, int]] = {
    "polite": {long_lived: 40, visitor: 10},
    "chaos": {
        slow_reader: 50,
        silent: 50,
        falls_silent: 40,
        half_closer: 20,
        deaf: 10,
        flooder: 10,
        one_byte_writer: 20,
        resetter: 20,
        storm: 2,
        hoard: 1,
    },
}


async def main() -> None:
    group = sys.argv[1]
    task = json.loads(sys.argv[2])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    timeouts = Timeouts(**task["timeouts"])
    soak = Soak(KINDS[group], task["port"], task["seed"], task["seconds"], timeouts)
    await soak.run(stop_at_once=group == "chaos")


if __name__ == "__main__":
    asyncio.run(main())
