"""A closed-loop HTTP load: so many connections, each with one request under way. Loopback only, bounded in time."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import cast

BODY = b'{"model":"m","input":"hello there"}'
REQUEST = (
    b"POST /responses HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


@dataclass
class Tally:
    """What came back."""

    answers: int = 0
    faults: int = 0
    latencies: list[float] = field(default_factory=list)


class _Connection(asyncio.Protocol):
    def __init__(self, tally: Tally, deadline: float) -> None:
        self._tally, self._deadline = tally, deadline
        self._buffer = b""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        self._buffer = b""
        self._tally.answers += 1
        self._tally.faults += not head.startswith(b"HTTP/1.1 200") or b'"completed"' not in body
        self._tally.latencies.append(time.perf_counter() - self._began)
        if time.perf_counter() < self._deadline:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


async def load(port: int, *, connections: int = 8, seconds: float = 4.0) -> Tally:
    """Ask a local server for `seconds`, over so many connections."""
    tally = Tally()
    deadline = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()
    made = [
        (await loop.create_connection(lambda: _Connection(tally, deadline), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*(connection.closed for connection in made)), seconds + 30)
    return tally
