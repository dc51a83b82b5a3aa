"""A server that only sends: at each beat one line to every connection. What no server with as many sockets can be faster than."""

import asyncio
import sys
from time import monotonic_ns

import uvloop

from tests.bench.metronome import BEAT

_PADDING = b"x" * 180  # as long as a chunk of a stream


async def main(port: int) -> None:
    writers: list[asyncio.StreamWriter] = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    async with await asyncio.start_server(greet, "127.0.0.1", port):
        while True:
            await asyncio.sleep(BEAT)
            line = b"%d %s\n" % (monotonic_ns(), _PADDING)
            for writer in writers:
                if not writer.transport.is_closing():
                    writer.write(line)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
