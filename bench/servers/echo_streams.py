"""Echo of lines on asyncio's streams: the handler that its documentation shows.

python echo_streams.py --hook lines [--host ADDRESS] [--port N]
prints "listening PORT", ends at SIGTERM.
"""

from __future__ import annotations

import asyncio
import ssl

from echo_asyncio import main


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One client: each line goes back."""
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def listen(
    _hook: str, host: str, port: int, context: ssl.SSLContext | None
) -> asyncio.Server:
    """Start to serve."""
    return await asyncio.start_server(echo, host, port, backlog=1024, ssl=context)


if __name__ == "__main__":
    main(asyncio.run, listen, ["lines"])
