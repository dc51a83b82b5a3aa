"""Layers that come to a device one by one are there whole when they are computed with, and not overwritten before."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from cortexd.rwkv.streaming import Lane, Streamed

CPU = torch.device("cpu")


class Norm(NamedTuple):
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Layer:
    number: int
    norm: Norm
    matrices: tuple[Tensor, ...]


def layer(number: int) -> Layer:
    norm = Norm(torch.randn(5), torch.randn(3) if number % 2 else None)
    return Layer(number, norm, (torch.randn(7, 3).half(), torch.randint(-99, 99, (number + 1, 9)).to(torch.int8)))


def tensors(it: Layer) -> list[Tensor]:
    return [tensor for tensor in (*it.norm, *it.matrices) if tensor is not None]


def same(one: Layer, other: Layer) -> bool:
    pairs = zip(tensors(one), tensors(other), strict=True)
    return one.number == other.number and all(torch.equal(a, b) and a.dtype is b.dtype for a, b in pairs)


class Patient(Lane):
    """Copies when it has to, and not where somebody still reads."""

    def __init__(self) -> None:
        self._due: dict[int, tuple[Tensor, Tensor]] = {}
        self._read: set[int] = set()

    def copy(self, source: Tensor, place: Tensor, buffer: int) -> None:
        assert buffer not in self._read
        self._due[buffer] = source, place

    def await_copy(self, buffer: int) -> None:
        source, place = self._due.pop(buffer)
        place.copy_(source)
        self._read.add(buffer)

    def leave(self, buffer: int) -> None:
        self._read.remove(buffer)


class Early(Lane):
    """Copies as soon as it may."""

    def copy(self, source: Tensor, place: Tensor, buffer: int) -> None:
        place.copy_(source)


@pytest.mark.parametrize("lane", [None, Patient(), Early()])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_every_layer_is_whole_while_it_is_computed_with(count: int, lane: Lane | None):
    layers = [layer(number) for number in range(count)]
    streamed = Streamed(layers, CPU, lane)
    for _ in range(2):
        found = 0
        for it, expected in zip(streamed, layers, strict=True):
            assert same(it, expected)
            found += 1
        assert found == count


def test_two_layers_are_on_the_device_at_a_time():
    streamed = Streamed([layer(number) for number in range(6)], CPU)
    places = {it.norm.weight.data_ptr() for it in streamed}
    assert len(places) == 2


def test_a_step_that_broke_off_does_not_keep_the_next_from_its_layers():
    layers = [layer(number) for number in range(3)]
    streamed = Streamed(layers, CPU, Patient())
    for it in streamed:
        assert it.number == 0
        break
    assert all(same(it, expected) for it, expected in zip(streamed, layers, strict=True))
