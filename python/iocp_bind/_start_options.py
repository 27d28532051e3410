"""The options of `Server.start`, for type checkers: `Server.run` takes them too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from types import EllipsisType

    from iocp_bind._framing import Framing
    from iocp_bind._tls import TLS


class StartOptions(TypedDict, total=False):
    """Each is optional; `Server.start` describes them and has their defaults."""

    backend: Literal["auto", "io_uring", "epoll", "iocp"]
    workers: int | None
    max_connections: int
    at_capacity: Literal["refuse", "wait"]
    listen_backlog: int
    initial_accepts: int
    max_accepts: int
    initial_reads: int
    buffer_size: int
    max_free_buffers: int
    max_free_contexts: int
    send_backlog_limit: int
    max_pending_sends: int | None
    write_high_water: int
    write_low_water: int
    flow_control: bool
    framing: Framing | EllipsisType | None
    tls: TLS | EllipsisType | None
    established_on: Literal["connect", "first_data"]
    first_data_timeout: float | None
    idle_timeout: float | None
    receive_timeout: float | None
    message_timeout: float | None
    write_timeout: float | None
    close_timeout: float
    keepalive: tuple[float, float] | None
    no_delay: bool
    reuse_port: bool
    dual_stack: bool
    zero_copy: bool
