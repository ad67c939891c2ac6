"""A TCP proxy in front of the S3 server that counts the requests and the bytes that go through it, by object."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.1\r\n")


@dataclass
class Traffic:
    """What passed so far, by the path of the object."""

    endpoint: str = ""
    requests: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    num_bytes: Counter[str] = field(default_factory=Counter)
    """From the server, headers included."""


@contextmanager
def counting_proxy(endpoint: str) -> Iterator[Traffic]:
    """Forward to the HTTP server at `endpoint` while the block runs. Requests must have no body: they are read."""
    target = urlsplit(endpoint)
    traffic = Traffic()
    loop = asyncio.new_event_loop()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(target.hostname, target.port)
        path = ""

        async def requests() -> None:
            nonlocal path
            while data := await reader.read(1 << 20):
                for verb, uri in _REQUEST.findall(data):
                    path = unquote(uri.split(b"?")[0].decode())
                    traffic.requests[path][verb.decode()] += 1
                server_writer.write(data)
                await server_writer.drain()
            server_writer.close()

        async def answers() -> None:
            while data := await server_reader.read(1 << 20):
                traffic.num_bytes[path] += len(data)
                writer.write(data)
                await writer.drain()
            writer.close()

        await asyncio.gather(requests(), answers(), return_exceptions=True)

    server = loop.run_until_complete(asyncio.start_server(forward, "127.0.0.1", 0))
    traffic.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever, daemon=True, name="counting-proxy")
    thread.start()
    try:
        yield traffic
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
