"""The hooks of a server, to be overridden, and what they do when they are not."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from iocp_bind._core import Connection
    from iocp_bind._types import CloseReason

    Data = TypeVar("Data", bytes, memoryview, default=bytes)
else:
    # At run time the parameter is not looked at, and only newer Pythons know defaults.
    from typing import TypeVar

    Data = TypeVar("Data")

logger = logging.getLogger("iocp_bind")


class Hooks(Generic[Data]):
    """The hooks; see `iocp_bind.Server`."""

    __slots__ = ()

    def on_connection_established(self, conn: Connection) -> None:
        """Called when a client has connected.

        With ``established_on="first_data"`` it is called when the client's first data comes.
        """

    def on_read_completed(self, conn: Connection, data: Data) -> None:
        """Called when bytes have been received: any number, wherever the network cut the stream.

        Args:
            conn: the client.
            data: `bytes`; with ``zero_copy=True`` a read-only `memoryview` of the receive
                buffer, which is released when the hook returns.
        """

    def on_message(self, conn: Connection, message: Data) -> None:
        """Called for each message of a connection that has a framing.

        Override this or `on_messages`.

        Args:
            conn: the client.
            message: the message, complete, without what the framing strips.
        """

    def on_messages(self, conn: Connection, messages: list[Data]) -> None:
        """Called with all messages that a receive has completed, in order: at least one.

        It is `on_message` for a whole list, and costs much less for many small messages.
        Nothing is called for the connection until it returns: `Connection.pause_reading`,
        `Connection.framing` and `Connection.close` in it take effect behind the list.

        Args:
            conn: the client.
            messages: a list of its own for each call, of at most 4096 messages.
        """

    def on_write_completed(self, conn: Connection, nbytes: int) -> None:
        """Called when the system has taken the last byte of an accepted send.

        It is called once for each send, in order.

        Args:
            conn: the client.
            nbytes: the length of that send.
        """

    def on_writable(self, conn: Connection) -> None:
        """Go on sending: the backlog was above `write_high_water`, and is now at `write_low_water`.

        A producer sends until its backlog is above the high mark, stops, and goes on here. The
        hook is called once for each time that the backlog was above the mark, whoever sent;
        sends in the hook may raise it again. If the backlog is above the high mark again before
        the hook can be called, it comes when it has fallen once more. A send that raised
        `SendBacklogFull` counts as one above the mark. The hook is not called once the connection
        has been closed or aborted, and `flow_control` does not matter.
        """

    def on_end_of_stream(self, conn: Connection) -> None:
        """Report that the client has finished sending; the hooks have had all of it.

        Override it to answer after that: the connection then stays open for sending until
        `conn.close()` is called, in this hook or later, on any thread. If the client goes away
        meanwhile, a later send fails, or ``idle_timeout`` ends the connection. Without this hook
        the connection is closed, after what has been sent by then.

        It comes once at most: not when the connection was closed or broke before, and not for a
        client for which `on_connection_established` was not called.
        """

    def on_connection_error(self, conn: Connection, error: OSError) -> None:
        """Called when something broke the connection; `on_connection_closing` follows.

        When memory ran out, `error` is an `OSError` with `errno.ENOMEM`.
        """

    def on_connection_closing(self, conn: Connection, reason: CloseReason) -> None:
        """Called when the connection has ended. It is the last hook of `conn`.

        The connection no longer counts in `connection_count`; its `data` is still there.
        """

    def on_hook_error(self, conn: Connection | None, hook: str, exc: BaseException) -> None:
        """Called when an exception has left a hook or a callback. It never ends a worker.

        The default logs it with its traceback (logger ``iocp_bind``, level ERROR) and aborts
        the connection, which is then closed with `CloseReason.HOOK_ERROR`.

        Args:
            conn: the client; None for a callback of the server.
            hook: the name of the hook; ``"call_soon"``, ``"call_later"`` or ``"call_every"`` for
                a callback.
            exc: the exception.
        """
        if conn is None:
            logger.error("a callback of %s of the server failed", hook, exc_info=exc)
            return
        logger.error("%s of %r failed; the connection is aborted", hook, conn, exc_info=exc)
        conn._abort_for_hook_error()
