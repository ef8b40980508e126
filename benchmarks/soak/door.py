"""`python -m benchmarks.soak.door PORT SERVER_PORT`: passes bytes between both. A program of its own,
so that it can be killed and started again while the server behind keeps what it holds.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Until the source ends; then the target is told so."""
    with suppress(OSError):
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
    with suppress(OSError):
        target.close()


async def serve(port: int, server_port: int) -> None:
    async def pair(*client: *Streams) -> None:
        server = await asyncio.open_connection("127.0.0.1", server_port)
        await asyncio.gather(pass_on(client[0], server[1]), pass_on(server[0], client[1]))

    listener = await asyncio.start_server(pair, "127.0.0.1", port)
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
