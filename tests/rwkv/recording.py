"""What stands for CUDA graphs where there is no GPU."""

from collections.abc import Callable

from torch import Tensor


def recorded(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """A recording that computes again, into the same place."""
    result = run()

    def replay() -> None:
        result.copy_(run())

    return replay, result


def recorded_but_once(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Holds nothing of what was recorded, as a CUDA graph; so it cannot compute it again."""
    result = run()
    return (lambda: None), result
