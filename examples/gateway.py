"""A gateway for devices: they log in and report, an operator sends them commands.

A message has a length of two bytes in front. The first message of a device is its name, and all
others are reports. Commands come from standard input, one a line: ``NAME COMMAND``.
"""

from __future__ import annotations

import argparse
import logging
import threading

import iocp_bind
from iocp_bind import CloseReason, Connection

logger = logging.getLogger("gateway")

LOGIN_TIMEOUT = 10.0
SILENCE = {b"meter": 3600.0, b"alarm": 30.0}  # seconds, by the kind of a device
OTHER_SILENCE = 300.0


class Gateway(iocp_bind.Server):
    """Knows the devices by their names, such as ``alarm-7``."""

    framing = iocp_bind.LengthPrefix(2, max_size=8192)

    def __init__(self) -> None:
        """Begin without devices."""
        super().__init__()
        # Changed by hooks, read by the operator's thread.
        self.devices: dict[bytes, Connection] = {}

    def on_connection_established(self, conn: Connection) -> None:
        """Wait for the name, and not for ever."""
        conn.receive_timeout = LOGIN_TIMEOUT

    def on_message(self, conn: Connection, message: bytes) -> None:
        """Log a device in, or take its report."""
        if conn.data is not None:
            logger.info(
                "%s reports %s",
                conn.data.decode(errors="replace"),
                message.decode(errors="replace"),
            )
            return
        conn.data = message
        kind = message.partition(b"-")[0]
        conn.receive_timeout = SILENCE.get(kind, OTHER_SILENCE)
        before = self.devices.get(message)
        self.devices[message] = conn
        if before is not None:
            before.abort()  # the device has come back before we noticed that it had gone
        conn.send_message(b"welcome")

    def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
        """Forget the device, unless it has connected anew."""
        if conn.data is not None and self.devices.get(conn.data) is conn:
            del self.devices[conn.data]
            logger.info("%s has gone: %s", conn.data.decode(errors="replace"), reason.name)

    def command(self, name: bytes, text: bytes) -> bool:
        """Send a command to a device, from any thread. False when it is not here."""
        conn = self.devices.get(name)
        return conn is not None and conn.send_message(text)


def operate(gateway: Gateway) -> None:
    """Pass on what the operator types."""
    # Not sys.stdin, whose lock the interpreter needs at its end while this thread waits in it.
    with open(0, "rb", closefd=False) as lines:
        for line in lines:
            name, _, text = line.strip().partition(b" ")
            shown = name.decode(errors="replace")
            try:
                if name and not gateway.command(name, text):
                    logger.warning("there is no device %s", shown)
            except (ValueError, iocp_bind.SendBacklogFull) as error:  # too long; takes nothing
                logger.warning("not sent to %s: %s", shown, error)


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4567)
    port: int = parser.parse_args().port
    logging.basicConfig(level=logging.INFO)
    gateway = Gateway()
    threading.Thread(target=operate, args=(gateway,), daemon=True).start()
    gateway.run(port=port, message_timeout=10.0)


if __name__ == "__main__":
    main()
