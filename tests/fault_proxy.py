"""An HTTP proxy in front of the S3 server: it records every exchange and spoils those that a plan of faults names.

Bytes pass as they are, the Host header that clients sign included, so signatures stay valid. It knows HTTP/1.1 well
enough for S3: keep-alive, Content-Length and chunked bodies, answers without a body, `Expect: 100-continue`. Every
exchange has a connection of its own to the server and is held in memory while it lasts.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from tests.faults_to_inject import Fault, Faults, NoFaults, Request

_SECRET_HEADERS = {"authorization", "x-amz-security-token", "cookie"}
_SECRET_QUERY = re.compile(r"(?i)(X-Amz-(?:Signature|Credential|Security-Token)=)[^&]*")
_REASONS = {400: "Bad Request", 403: "Forbidden", 409: "Conflict", 412: "Precondition Failed", 503: "Slow Down"}
_MAX_HEAD_BYTES = 1 << 18
_MAX_LINGER_SECONDS = 5.0


@dataclass(frozen=True)
class Exchange:
    """One request, and what became of it. Holds no secret."""

    request: Request
    seconds: float
    """When it came, since the proxy started."""
    duration: float
    """Seconds, from its arrival until the answer was there."""
    status: int | None
    """That the client was told; None if it got no answer."""
    num_bytes: int
    """Of the answer, its head included, as they came from the server."""
    fault: str
    """The name of what was done to it, '' for nothing."""


@dataclass
class Traffic:
    """A running proxy. `faults` may be exchanged at any time; `exchanges` only grows."""

    endpoint: str = ""
    faults: Faults = field(default_factory=NoFaults)
    exchanges: list[Exchange] = field(default_factory=list)
    num_requests: int = 0
    started: float = field(default_factory=time.monotonic)

    def matching(self, pattern: str = "") -> list[Exchange]:
        """The exchanges whose 'METHOD /path' holds the regular expression, in the order in which they ended."""
        return [one for one in self.exchanges if re.search(pattern, str(one.request))]

    def count_faults(self) -> Counter[str]:
        """How often each fault was done."""
        return Counter(one.fault for one in self.exchanges if one.fault)

    def count_methods(self, path: str) -> Counter[str]:
        """Requests for one object, by method."""
        return Counter(one.request.method for one in self.exchanges if one.request.path == path)


@contextmanager
def fault_proxy(endpoint: str, faults: Faults | None = None, *, hidden: tuple[bytes, ...] = ()) -> Iterator[Traffic]:
    """Forward to the HTTP server at `endpoint` while the block runs, from a thread of its own.

    Headers that begin with any of `hidden` are kept from the server; a signature then must be, too, for it fails.
    (A function of deltalake that holds Python's lock while it waits, such as `DeltaTable.history`, waits for ever for a
    proxy in its own process.)
    """
    address = urlsplit(endpoint)
    target = _Server(address.hostname or "", address.port or 80, hidden)
    traffic = Traffic(faults=faults or NoFaults())
    loop = asyncio.new_event_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await _exchange(reader, writer, traffic=traffic, target=target):
                pass
        writer.close()

    starting = asyncio.start_server(serve, "127.0.0.1", 0, limit=_MAX_HEAD_BYTES, backlog=512)
    server = loop.run_until_complete(starting)
    traffic.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever, daemon=True, name="fault-proxy")
    thread.start()
    try:
        yield traffic
    finally:
        asyncio.run_coroutine_threadsafe(_close(server), loop).result(timeout=60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.wait(others, timeout=_MAX_LINGER_SECONDS) if others else None
    await asyncio.get_running_loop().shutdown_default_executor()


@dataclass(frozen=True)
class _Server:
    """Where requests go, and which of their headers do not."""

    host: str
    port: int
    hidden: tuple[bytes, ...]

    def shown(self, head: bytes) -> bytes:
        """The head of a request without those."""
        return b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(self.hidden))


@dataclass(frozen=True)
class _Message:
    """A request or an answer: its head as it came, and its body as it came and without the framing of chunks."""

    head: bytes
    raw_body: bytes
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    @property
    def whole(self) -> bytes:
        return self.head + self.raw_body


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    traffic: Traffic,
    target: _Server,
) -> bool:
    """Serve the next request of a connection. False when that was the last one."""
    head = await reader.readuntil(b"\r\n\r\n")
    arrived = time.monotonic()
    headers = _headers(head)
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    raw_body, body = await _read_body(reader, headers, otherwise=0)
    request = _request(head, headers, ordinal=traffic.num_requests)
    traffic.num_requests += 1
    fault = traffic.faults.decide(request)
    try:
        answer = await _answer(_Message(head, raw_body, body), request, fault, target)
    except ConnectionError:
        answer = None
    # Before the client hears of it, so that whoever looks behind an answer finds it recorded.
    since = (arrived - traffic.started, time.monotonic() - arrived)
    told, num_bytes = (None, 0) if answer is None else (answer.status, len(answer.whole))
    traffic.exchanges.append(Exchange(request, *since, told, num_bytes, fault.name))
    if answer is None:
        _reset(writer)
        return False
    return await _send(writer, answer, fault) and headers.get("connection", "").lower() != "close"


async def _answer(message: _Message, request: Request, fault: Fault, target: _Server) -> _Message:
    """What the client is to be told. Raises ConnectionResetError where the fault says that it is told nothing."""
    loop = asyncio.get_running_loop()
    if fault.before is not None:
        await loop.run_in_executor(None, fault.before, request)
    await asyncio.sleep(fault.delay_seconds)
    if fault.reset == "before":
        raise ConnectionResetError
    answer = await _forward(message, request, target) if fault.is_forwarded else None
    if fault.after is not None:
        await loop.run_in_executor(None, fault.after, request)
    if fault.reset == "after":
        raise ConnectionResetError
    if fault.code is not None:
        return _error(fault.code[0], fault.code[1], request)
    assert answer is not None, "a request that is not forwarded needs an answer"
    return answer


async def _forward(message: _Message, request: Request, target: _Server) -> _Message:
    reader, writer = await asyncio.open_connection(target.host, target.port, limit=_MAX_HEAD_BYTES)
    try:
        writer.write(target.shown(message.head) + message.raw_body)
        await writer.drain()
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                raise ConnectionResetError from error
            status = int(head.split(b" ", 2)[1])
            if status >= 200:
                break
        if request.method == "HEAD" or status in {204, 304}:
            return _Message(head, b"", b"")
        return _Message(head, *await _read_body(reader, _headers(head), otherwise=-1))
    finally:
        writer.close()


async def _send(writer: asyncio.StreamWriter, message: _Message, fault: Fault) -> bool:
    """Tell the client, in full or cut. False if that ends the connection."""
    kept = int(len(message.body) * fault.kept_share)
    if fault.truncation == "" or kept == len(message.body):
        writer.write(message.whole)
        await writer.drain()
        return b"content-length" in message.head.lower() or b"chunked" in message.head.lower() or not message.raw_body
    if fault.truncation == "rewritten":
        lines = [one for one in message.head.split(b"\r\n")[:-2] if not _FRAMING.match(one)]
        writer.write(b"\r\n".join([*lines, b"Content-Length: %d" % kept, b"", b""]) + message.body[:kept])
        await writer.drain()
        return True
    writer.write(message.head + message.raw_body[:kept])
    await writer.drain()
    return False


_FRAMING = re.compile(rb"(?i)(content-length|transfer-encoding):")


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str], *, otherwise: int) -> tuple[bytes, bytes]:
    """A body as it comes, and without the framing of chunks; `otherwise` is its length where nothing tells it."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return await _read_chunks(reader)
    length = int(headers.get("content-length", otherwise))
    data = await (reader.readexactly(length) if length >= 0 else reader.read())
    return data, data


async def _read_chunks(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    raw, pieces = bytearray(), []
    while True:
        line = await reader.readline()
        raw += line
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        chunk = await reader.readexactly(size + 2)
        raw += chunk
        pieces.append(chunk[:-2])
    while (line := await reader.readline()) != b"\r\n":  # trailers
        raw += line
    return bytes(raw + line), b"".join(pieces)


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:-2]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _request(head: bytes, headers: dict[str, str], *, ordinal: int) -> Request:
    method, uri, _ = head.decode("latin-1").split(" ", 2)
    path, _, query = uri.partition("?")
    shown = {name: value for name, value in headers.items() if name not in _SECRET_HEADERS}
    return Request(ordinal, method, unquote(path), _SECRET_QUERY.sub(r"\1", query), shown)


def _error(status: int, code: str, request: Request) -> _Message:
    """S3's way to say no; the answer to HEAD has no body."""
    condition = "<Condition>If-None-Match</Condition>" if status == 412 and request.is_create else ""
    xml = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{code}, injected</Message>'
        f"{condition}<RequestId>{request.ordinal:016X}</RequestId></Error>"
    ).encode()
    head = (
        f"HTTP/1.1 {status} {_REASONS.get(status, code)}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(xml)}\r\nx-amz-request-id: {request.ordinal:016X}\r\n\r\n"
    ).encode()
    body = b"" if request.method == "HEAD" else xml
    return _Message(head, body, body)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST, as a crashed peer or a load balancer does."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
