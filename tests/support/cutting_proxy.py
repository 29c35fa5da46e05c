"""A TCP proxy that can cut and stall the connections that run through it."""

import asyncio
import contextlib


class CuttingProxy:
    """Forwards connections from a port of its own to a target; lives on one loop.

    Attributes:
        address: Where it listens.
        target: Where new connections go to; may be changed.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.address = ""
        self._server: asyncio.Server | None = None
        self._flows: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self._is_refusing = False
        self._budget: int | None = None
        self.spent = asyncio.Event()

    async def start(self) -> "CuttingProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    def cut(self) -> None:
        """Closes all connections, hard."""
        for writer in list(self._writers):
            writer.transport.abort()

    def cut_after(self, size: int) -> None:
        """Cuts once when so many more bytes have come back from the target."""
        self._budget = size
        self.spent.clear()

    def refuse(self, is_refusing: bool = True) -> None:
        """Closes new connections at once, or accepts them again."""
        self._is_refusing = is_refusing

    def stall(self) -> None:
        """Lets nothing through, without closing anything."""
        self._passing.clear()

    def resume(self) -> None:
        """Lets everything through again."""
        self._passing.set()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._passing.set()
        self.cut()
        for flow in list(self._flows):
            flow.cancel()
        await asyncio.gather(*self._flows, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_refusing:
            writer.transport.abort()
            return
        host, _, port = self.target.rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        for source, sink, counts in ((reader, far_writer, False), (far_reader, writer, True)):
            flow = asyncio.ensure_future(self._flow(source, sink, counts))
            self._flows.add(flow)
            flow.add_done_callback(self._flows.discard)

    async def _flow(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, counts: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                await self._passing.wait()
                sink.write(data)
                await sink.drain()
                if counts:
                    self._spend(len(data))
        self._writers.discard(sink)
        sink.transport.abort()

    def _spend(self, size: int) -> None:
        if self._budget is None:
            return
        self._budget -= size
        if self._budget <= 0:
            self._budget = None
            self.spent.set()
            self.cut()
