"""The cores of this machine, shared among the engines that compute at the moment."""

from collections.abc import Callable

Grant = Callable[[int], None]


class Cores:
    """Threads are a budget: two engines with two threads each on two cores are a fifth as fast as with one each (measured)."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._active: dict[Grant, int] = {}  # what each was told last

    def begin(self, grant: Grant) -> None:
        """An engine starts to compute: it, and whoever else's share changes, is told how many threads to use."""
        self._active[grant] = 0
        self._share()

    def end(self, grant: Grant) -> None:
        """It has nothing to compute any more; harmless if it had not."""
        if self._active.pop(grant, None) is not None:
            self._share()

    def _share(self) -> None:
        if not self._active:
            return
        share = max(1, self.count // len(self._active))
        for grant, told in tuple(self._active.items()):
            if told != share:
                self._active[grant] = share
                grant(share)
