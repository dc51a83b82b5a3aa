"""Models that will probably be asked for soon are loaded beforehand, into memory that nobody else wants."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from cortexd.errors import CortexdError
from cortexd.lifecycle.lease import Lease
from cortexd.lifecycle.prediction import Predictor

_log = logging.getLogger("cortexd.lifecycle")

_UNREAD = 4096  # requests remembered until they are looked at
_BACK_OFF, _LONGEST_BACK_OFF = 300.0, 3600.0  # seconds until a model that could not be warmed up is tried again


class WarmUp:
    """One task, and so one warm-up at a time. Whatever becomes of it, requests are served: it keeps its errors to itself."""

    def __init__(
        self,
        predictor: Predictor,
        cold: Callable[[], Sequence[str]],
        lease: Callable[[str], Lease],
        *,
        threshold: float = 0.5,
        now: Callable[[], float] = time.time,
        interval: float = 60.0,
        pause: float = 1.0,
        patience: float = 60.0,
    ) -> None:
        """`cold` names the models that a request would have to wait for; `lease` gives one of `Priority.PREDICTED`, or raises
        CortexdError. Models at least as probable as `threshold` are warmed up.

        `interval`, `pause`: the most and the least seconds between two looks. `patience`: seconds that a load may take.
        """
        self._predictor = predictor
        self._cold = cold
        self._lease = lease
        self._threshold = threshold
        self._now = now
        self._interval = interval
        self._pause = pause
        self._patience = patience
        self._unread: deque[tuple[str, float]] = deque(maxlen=_UNREAD)
        self._woken = asyncio.Event()
        self._backing_off: dict[str, tuple[float, float]] = {}  # by model, since when and for how long
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="warm up likely models")

    def asked(self, model: str) -> None:
        """A request for this model has come. It pays for no more than being written down."""
        self._unread.append((model, self._now()))
        self._woken.set()

    def stop(self) -> None:
        """Give up what is being warmed up."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Stop, and return when that is done."""
        self.stop()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while True:
                try:
                    async with asyncio.timeout(self._interval):
                        await self._woken.wait()
                except TimeoutError:
                    pass
                self._woken.clear()
                await self._look()
                await asyncio.sleep(self._pause)
        except Exception:
            _log.exception("No model is warmed up any more until the daemon is restarted")

    async def _look(self) -> None:
        """Warm up the likeliest model, if any is likely enough; then look again, as there may be another."""
        now = self._now()
        while self._unread:
            self._predictor.note(*self._unread.popleft())
        candidates = [name for name in self._cold() if self._may_try(name, now)]
        likely = self._predictor.likely(now, candidates)
        if not likely or likely[0][1] < self._threshold:
            return
        name, _ = likely[0]
        self._woken.set()
        self._predictor.predicted(name, now)
        if self._predictor.active:
            await self._warm_up(name)

    def _may_try(self, name: str, now: float) -> bool:
        since, seconds = self._backing_off.get(name, (now, 0.0))
        return not self._predictor.awaited(name) and not 0 <= now - since < seconds

    async def _warm_up(self, name: str) -> None:
        """Ready or not after this; a model that is ready stays for its keep_alive, as after any use."""
        if await self._is_ready(name):
            self._backing_off.pop(name, None)
        else:
            _, seconds = self._backing_off.get(name, (0.0, _BACK_OFF / 2))
            self._backing_off[name] = self._now(), min(2 * seconds, _LONGEST_BACK_OFF)

    async def _is_ready(self, name: str) -> bool:
        try:
            lease = self._lease(name)
            try:
                return await lease.granted(self._patience)
            finally:
                lease.release()
        except CortexdError:
            return False  # it was said why to whoever asks: the supervisor tells of each failure
