"""How much memory a device has."""

import msgspec


class Room(msgspec.Struct, frozen=True):
    """Bytes; `available` is what could be had now, without anybody's giving up more than caches."""

    total: int
    available: int
