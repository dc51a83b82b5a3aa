"""A worker that computes nothing: at each beat every sequence gets a token, which is the time at which it was made."""

import asyncio
import socket
import sys
from time import monotonic_ns

from cortexd import wire

BEAT = 0.05  # seconds; as of an engine with 20 tokens per second and stream
_FACTS = wire.Loaded(
    version="-", layers=0, width=0, vocabulary=0, context=1000, slots=64, weight_bytes=0, strategy="none", thinks=False
)


class Metronome(asyncio.Protocol):
    def __init__(self) -> None:
        self._left: dict[int, int] = {}  # tokens, by sequence
        self._frames = wire.FrameReader()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            match wire.decode_command(frame):
                case wire.Load():
                    self._send(_FACTS)
                case wire.Generate() as command:
                    self._left[command.id] = command.max_tokens or 1
                    if command.max_tokens == 1:  # the probe
                        self.beat()
                case wire.Cancel(id):
                    self._left.pop(id, None)
                case wire.Ping(nonce):
                    self._send(wire.Pong(nonce, len(self._left), 0))
                case wire.Shutdown():
                    self._transport.close()
                case _:
                    pass

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def beat(self) -> None:
        if not self._left:
            return
        text = f"{monotonic_ns()} "
        deltas: list[wire.Delta] = []
        for id, left in tuple(self._left.items()):
            self._left[id] = left - 1
            if left > 1:
                deltas.append(wire.Delta(id, text))
            else:
                del self._left[id]
                deltas.append(wire.Delta(id, text, finish="length", usage=wire.Usage(1, 1)))
        self._send(wire.Step(deltas))

    def _send(self, report: wire.Report) -> None:
        self._transport.write(wire.encode(report))


async def main(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    _, metronome = await loop.create_unix_connection(Metronome, sock=socket.socket(fileno=descriptor))
    while not metronome.lost.is_set():
        await asyncio.sleep(BEAT)
        metronome.beat()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
