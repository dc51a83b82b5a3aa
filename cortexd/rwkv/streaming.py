"""Layers that are kept on the host and brought to a device for each step, one ahead of the one that is computed."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")
_ALIGNMENT = 256  # bytes: as much as an allocation of its own would have
_BUFFERS = 2  # layers on the device at a time: one is computed, one is on its way


def mapped(value: T, function: Callable[[Tensor], Tensor]) -> T:
    """The same tensor, tuple or dataclass with each tensor replaced, always in the same order."""
    return cast("T", _mapped(value, function))


def moved(value: T, device: torch.device) -> T:
    """The same with its tensors on `device`; what is there already is not copied."""
    return mapped(value, lambda tensor: tensor if tensor.device == device else tensor.to(device, non_blocking=True))


class Lane:
    """What copies, into one of two buffers. On the host nothing goes on beside it."""

    def copy(self, source: Tensor, place: Tensor, buffer: int) -> None:  # noqa: ARG002 - nothing to wait for
        place.copy_(source)

    def await_copy(self, buffer: int) -> None:
        """What is computed from now on finds there what was copied last."""

    def leave(self, buffer: int) -> None:
        """Nothing that is computed from now on reads what is there."""


class CudaLane(Lane):
    """What copies to a GPU, beside the stream that is computed in. Nobody waits but the GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        # What is copied to may have been another's, who is not done with it.
        self._stream.wait_stream(torch.cuda.current_stream(device))
        self._copied, self._left = ([torch.cuda.Event() for _ in range(_BUFFERS)] for _ in range(2))

    def copy(self, source: Tensor, place: Tensor, buffer: int) -> None:
        self._stream.wait_event(self._left[buffer])  # that was never left keeps nobody waiting
        with torch.cuda.stream(self._stream):
            place.copy_(source, non_blocking=True)
            place.record_stream(self._stream)
            self._copied[buffer].record(self._stream)

    def await_copy(self, buffer: int) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._copied[buffer])

    def leave(self, buffer: int) -> None:
        self._left[buffer].record(torch.cuda.current_stream(self._device))


class Streamed(Generic[T]):
    """The layers one after the other, on `device`: each may be used until the next is asked for.

    On a GPU the next is copied meanwhile: in one piece, from memory that the driver needs no help to read.
    """

    def __init__(self, layers: Iterable[T], device: torch.device, lane: Lane | None = None) -> None:
        """What copies is `lane`, by default what suits the device."""
        self._kept = [_Kept(layer, pinned=device.type == "cuda") for layer in layers]
        size = max((kept.bytes.nbytes for kept in self._kept), default=0)
        buffers = torch.empty(min(_BUFFERS, len(self._kept)), size, dtype=torch.uint8, device=device)
        self._places = [buffers[i % _BUFFERS, : kept.bytes.nbytes] for i, kept in enumerate(self._kept)]
        self._layers = [kept.at(place) for kept, place in zip(self._kept, self._places, strict=True)]
        self._lane = lane or (CudaLane(device) if device.type == "cuda" else Lane())

    def __iter__(self) -> Iterator[T]:
        if self._kept:
            self._bring(0)
        for number, layer in enumerate(self._layers):
            if number + 1 < len(self._layers):
                self._bring(number + 1)
            self._lane.await_copy(number % _BUFFERS)
            try:
                yield layer
            finally:
                self._lane.leave(number % _BUFFERS)

    def _bring(self, number: int) -> None:
        self._lane.copy(self._kept[number].bytes, self._places[number], number % _BUFFERS)


class _Kept(Generic[T]):
    """A layer whose tensors lie one after the other."""

    def __init__(self, layer: T, *, pinned: bool) -> None:
        self._layer = layer
        self.bytes = _host_memory(sum(_padded(tensor) for tensor in _tensors(layer)), pinned=pinned)
        self._layer = self.at(self.bytes)
        for own, given in zip(_tensors(self._layer), _tensors(layer), strict=True):
            own.copy_(given)

    def at(self, place: Tensor) -> T:
        """The layer that is in `place` once its bytes are."""
        offset = 0

        def view(tensor: Tensor) -> Tensor:
            nonlocal offset
            start, offset = offset, offset + _padded(tensor)
            return place[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)

        return mapped(self._layer, view)


def _host_memory(size: int, *, pinned: bool) -> Tensor:
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
    except RuntimeError:  # a limit on what may be pinned: copies are slower, and right all the same
        return torch.empty(size, dtype=torch.uint8)


def _padded(tensor: Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT


def _tensors(value: object) -> list[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(value, note)
    return found


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        kind: Any = type(cast("object", value))
        parts = [_mapped(part, function) for part in cast("tuple[Any, ...]", value)]
        return kind(*parts) if hasattr(kind, "_fields") else tuple(parts)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value,
            **{field.name: _mapped(getattr(value, field.name), function) for field in fields(value) if field.init},
        )
    return value
