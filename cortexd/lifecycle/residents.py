"""Models that are loaded without having been asked for: those to be preloaded, and those that were there before a restart."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from cortexd.errors import CortexdError
from cortexd.lifecycle.lease import Lease

_log = logging.getLogger("cortexd.lifecycle")


class Residents:
    """Brings models in, in the order given as far as the queue goes, and leaves them to their keep_alive."""

    def __init__(
        self,
        lease: Callable[[str, str], Lease],
        again: Callable[[str, CortexdError], bool] = lambda _name, _error: False,
        patience: float = 600.0,
    ) -> None:
        """`lease(name, owner)` asks for a model with `Priority.PRELOAD`, and may raise CortexdError; `again` is told that error,
        and says whether to ask once more. As nothing is evicted for such a wish, it is given up after `patience` seconds.
        """
        self._lease = lease
        self._again = again
        self._patience = patience
        self._tasks: set[asyncio.Task[None]] = set()

    def bring(self, names: Sequence[str], owner: str) -> None:
        for name in names:
            task = asyncio.create_task(self._bring(name, owner), name=f"{owner}: {name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    async def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _bring(self, name: str, owner: str, *, once_more: bool = True) -> None:
        try:
            async with asyncio.timeout(self._patience), self._lease(name, owner):
                pass
        except TimeoutError:
            _log.warning("%s of %s: there was no room for it", owner, name)
        except CortexdError as error:
            _log.warning("%s of %s: %s", owner, name, error.message)
            if once_more and self._again(name, error):
                await self._bring(name, owner, once_more=False)
