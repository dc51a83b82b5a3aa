"""Settings as bytes: equal settings have equal bytes."""

import hashlib

import msgspec

from cortexd.config.document import Settings


def canonical(settings: Settings) -> bytes:
    """JSON with every key in order, also those at their defaults, so that a later default changes no old document."""
    return msgspec.json.encode(settings, order="sorted")


def content_hash(settings: Settings) -> str:
    """SHA-256 of the canonical form, in hexadecimal."""
    return hashlib.sha256(canonical(settings)).hexdigest()
