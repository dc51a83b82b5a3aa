"""What RWKV-Runner's clients send and are told. Fields of theirs that mean nothing here are not declared, hence ignored."""

from enum import IntEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from cortexd.api.schema import Penalty, Share

_File = Annotated[str, Meta(max_length=4096)]  # a name, or a path of theirs that ends in one


class Switch(msgspec.Struct, frozen=True):
    """Body of `POST /switch-model`."""

    model: _File  # "": unload the present one
    strategy: Annotated[str, Meta(max_length=256)] = ""  # "": as it is configured


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /update-config`; None leaves a field as it is."""

    max_tokens: Annotated[int, Meta(ge=1, le=102_400)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=3)] | None = None
    top_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    penalty_decay: Annotated[float, Meta(ge=0.99, le=0.999)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=100)] | None = None
    global_penalty: bool | None = None
    state: _File | None = None  # to start from; "": none


class Phase(IntEnum):
    """Of RWKV-Runner's only model; its 1 is of no use to anybody."""

    OFFLINE = 0
    LOADING = 2
    WORKING = 3


class RunnerStatus(msgspec.Struct, frozen=True):
    """Body of `GET /status`."""

    status: Phase
    pid: int  # of what runs the model; of the daemon while nothing does
    device_name: str
