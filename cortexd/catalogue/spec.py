"""What a model is configured to be."""

import hashlib
from typing import Literal

import msgspec

Source = Literal["embedded", "file", "directory", "synthetic"]


class SamplingDefaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request gets that does not say otherwise; top_p as RWKV's authors advise for chat."""

    temperature: float = 1.0
    top_p: float = 0.3
    top_k: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_decay: float = 1.0
    max_tokens: int = 32768  # of an answer; where the limit is lower, that


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request may not exceed."""

    prompt_tokens: int = 32768
    max_tokens: int = 32768


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One model a client may name. Two specs with equal `hash` may share a process."""

    name: str
    source: Source
    engine: str = "rwkv"
    path: str = ""  # absolute
    weights: str = ""  # identity of the weights' bytes: changes when the file does
    size: int = 0  # bytes on disk
    created: int = 0  # seconds since the epoch
    architecture: str = ""  # "rwkv7", or "" where the header could not be read
    parameters: int = 0  # this and what follows, as far as the header says it
    vocabulary: int = 0  # rows of the embedding
    width: int = 0  # channels
    layers: int = 0
    heads: int = 0
    head_size: int = 0
    stored: str = ""  # what the large matrices are stored in: "BF16"
    state_bytes: int = 0  # of one sequence
    problem: str | None = None  # why a load is expected to fail, from the header alone
    strategy: str = "auto"
    template: str = "auto"
    threads: int = 0  # 0: all that the daemon may use
    max_concurrency: int = 32  # sequences in one batch
    aliases: tuple[str, ...] = ()
    keep_alive: float | None = None  # seconds after the last use; negative: for ever; None: the daemon's setting
    pin: bool = False  # never evicted
    preload: bool = False  # loaded when the daemon starts
    state: str | None = None  # the state-tuned initial state it starts from
    sampling: SamplingDefaults = SamplingDefaults()
    limits: Limits = Limits()

    def labelled_like(self, wanted: "ModelSpec") -> "ModelSpec":
        """This process under the labels of `wanted`: what can change live is as there, as far as these weights allow."""
        fits = (self.layers, self.heads, self.head_size) == (wanted.layers, wanted.heads, wanted.head_size)
        return msgspec.structs.replace(
            self,
            name=wanted.name,
            aliases=wanted.aliases,
            keep_alive=wanted.keep_alive,
            pin=wanted.pin,
            preload=wanted.preload,
            state=wanted.state if fits else self.state,
            sampling=wanted.sampling,
            limits=msgspec.structs.replace(self.limits, max_tokens=wanted.limits.max_tokens),
        )

    @property
    def hash(self) -> str:
        """SHA-256 over what affects the model's process; what can change live is not in it."""
        affects = (
            self.engine,
            self.path or self.name.partition("@")[0],  # what has no file is like nothing else, but its own past
            self.weights,
            self.strategy,
            self.template,
            self.threads,
            self.max_concurrency,
            self.limits.prompt_tokens,
        )
        return hashlib.sha256(repr(affects).encode()).hexdigest()
