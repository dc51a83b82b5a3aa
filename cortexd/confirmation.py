"""The time that somebody has to confirm a change of the configuration."""

import asyncio
from collections.abc import Awaitable, Callable
from time import time

import msgspec

from cortexd.errors import CortexdError, InvalidConfiguration, StoreFailed
from cortexd.store.snapshots import Snapshots

_LOOK_AGAIN = 30.0  # seconds at most until a deadline, which is by the wall clock, is looked at again
_TRY_AGAIN = 5.0  # seconds after which a database that failed is asked again


class _Deadline(msgspec.Struct, frozen=True):
    at: float  # seconds since the epoch
    by_loop: float  # the same moment by the loop's clock, which nobody sets


async def keep_deadlines(
    snapshots: Snapshots,
    moved: asyncio.Event,
    revert: Callable[[float], Awaitable[None]],
    report: Callable[[CortexdError], None],
) -> None:
    """Call `revert`, with the time, whenever the deadline of what is in force has passed; until cancelled. `moved` is set by
    whoever changes what is in force; `report` is told what went wrong, which is tried again.
    """
    deadline = _Deadline(0.0, 0.0)
    loop = asyncio.get_running_loop()
    while True:
        moved.clear()
        try:
            head = await snapshots.head()
            wait = None
            if head is not None and head.revert_deadline is not None:
                if deadline.at != head.revert_deadline:
                    deadline = _Deadline(head.revert_deadline, loop.time() + head.revert_deadline - time())
                wait = min(_LOOK_AGAIN, max(0.0, min(deadline.at - time(), deadline.by_loop - loop.time())))
            try:
                async with asyncio.timeout(wait):
                    await moved.wait()
            except TimeoutError:
                # A wall clock that was set back must not keep alive what nobody confirmed.
                over = loop.time() >= deadline.by_loop
                await revert(max(time(), deadline.at) if over else time())
        except (StoreFailed, InvalidConfiguration) as error:
            report(error)
            await asyncio.sleep(_TRY_AGAIN)
