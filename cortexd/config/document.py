"""The document: every section and every key, declared once.

A key is a field: its type and bounds, its default, and in `Meta` its description, its unit, and when a change takes effect (at
once, unless said). Reader, names of variables, schema, example and manual derive from that.
"""

import os
from typing import Annotated

import msgspec
from msgspec import Meta

from cortexd.config.naming import TARGET

DAEMON = Meta(extra={"restart": "daemon"})  # a change takes effect at the next start
MODEL = Meta(extra={"restart": "model"})  # at the next load

Positive = Annotated[int, Meta(ge=1)]
Duration = Annotated[float, Meta(extra={"unit": "s"})]  # written "5m", or as a number of seconds
Seconds = Annotated[Duration, Meta(ge=0)]
Patience = Annotated[Duration, Meta(gt=0)]
Size = Annotated[str, Meta(extra={"unit": "size"})]  # written "12 GB", "70 %", "auto", or as a number of bytes
Threads = Annotated[int, Meta(ge=0, le=1024)]
# Not as `pattern`, with which msgspec 0.22 crashes where a table may stand in its place.
Target = Annotated[str, Meta(extra={"unit": "target"}, extra_json_schema={"pattern": f"^{TARGET}$"})]
Weight = Annotated[float, Meta(ge=0, le=1_000_000)]

Strategy = Annotated[str, Meta(description='Where and in what precision a model computes, such as "cpu bf16".'), MODEL]
Concurrency = Annotated[int, Meta(ge=1, le=1024, description="Sequences in one batch."), MODEL]
Temperature = Annotated[float, Meta(ge=0, le=3, description="How much chance decides; 0: the likeliest token always.")]
TopP = Annotated[float, Meta(ge=0, le=1, description="Only the likeliest tokens that have this probability together.")]
TopK = Annotated[int, Meta(ge=0, le=2**31 - 1, description="Only so many of the likeliest tokens; 0: all.")]
PresencePenalty = Annotated[float, Meta(ge=-2, le=2, description="Taken from the score of what was said already.")]
FrequencyPenalty = Annotated[float, Meta(ge=-2, le=2, description="The same, for each time that it was said.")]
PenaltyDecay = Annotated[
    float, Meta(ge=0.9, le=1, description="What is left of both penalties after each token; 1: all.")
]
AnswerTokens = Annotated[Positive, Meta(description="The longest answer to a request that does not say.")]
PromptTokens = Annotated[Positive, Meta(description="The longest prompt, in tokens."), MODEL]
MaxTokens = Annotated[Positive, Meta(description="The longest answer, in tokens.")]


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section: unknown keys are refused."""


class Server(Document, frozen=True):
    """Where and how HTTP is spoken."""

    host: Annotated[str, Meta(description="The address to listen at."), DAEMON] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="The port to listen at; 0: any that is free."), DAEMON] = (
        11435
    )
    max_body_bytes: Annotated[int, Meta(ge=1024, le=2**30, description="The largest request.", extra={"unit": "B"})] = (
        16 * 2**20
    )
    loading_comment_s: Annotated[
        Patience, Meta(le=60, description="Between two comments to a stream that waits for a load.")
    ] = 3.0
    drain_s: Annotated[Seconds, Meta(le=3600, description="From SIGTERM until what still runs is cut.")] = 30.0


class Lifecycle(Document, frozen=True):
    """How models come and go."""

    keep_alive: Annotated[
        Duration, Meta(description="From a model's last use to its unloading; negative: it stays for ever.")
    ] = 300.0
    parallel_loads: Annotated[Positive, Meta(description="Models that may be loading at the same time.")] = 2
    queue_limit: Annotated[
        Positive, Meta(description="Requests that may wait for one model to load, and answers that may wait in it.")
    ] = 1024
    max_wait: Annotated[
        Seconds, Meta(description="After so long, a model that waits for memory closes those that hold it.")
    ] = 30.0
    suspend_after: Annotated[
        Seconds, Meta(description="From then until answers that still run are suspended, to go on later.")
    ] = 5.0
    linger: Annotated[
        Seconds, Meta(description="For so long a load goes on after the last who wanted it has left.")
    ] = 3.0
    parked_keep_alive: Annotated[
        Duration, Meta(description="For so long a parked model is kept beyond its keep_alive; negative: for ever.")
    ] = 3600.0
    restore: Annotated[bool, Meta(description="Load at the start what was loaded at the end."), DAEMON] = True
    predict: Annotated[bool, Meta(description="Load what will probably be asked for soon, into free memory only.")] = (
        True
    )
    load_stall: Annotated[Patience, Meta(description="Without progress for so long, a load is given up.")] = 120.0
    ping_interval: Annotated[Patience, Meta(description="Between two checks that a worker answers.")] = 10.0
    ping_deadline: Annotated[Patience, Meta(description="A worker that does not answer for so long is ended.")] = 60.0


class Models(Document, frozen=True):
    """Where checkpoints are looked for."""

    directories: Annotated[
        tuple[str, ...],
        Meta(
            description="Whose checkpoints are offered; empty: `models` in the data directory.", extra={"unit": "path"}
        ),
    ] = ()
    embedded: Annotated[bool, Meta(description="Offer the demo model.")] = True


class Engine(Document, frozen=True):
    """How our own engine computes."""

    threads: Annotated[
        Threads, Meta(description="Threads of one worker; 0: one for each core that this process may use."), DAEMON
    ] = 0
    prefill_budget: Annotated[
        int, Meta(ge=1, le=65536, description="Prompt tokens of one step, beside the running streams."), MODEL
    ] = 256
    inter_token_target: Annotated[
        Seconds,
        Meta(
            le=60,
            description="The longest that prompts should keep running streams from their next token; 0: any time.",
        ),
    ] = 0.05
    strategy: Strategy = "auto"
    max_concurrency: Concurrency = 32

    @property
    def thread_count(self) -> int:
        return self.threads or len(os.sched_getaffinity(0))


class Memory(Document, frozen=True):
    """How much of each device models may hold."""

    cpu: Annotated[
        Size, Meta(description="Of the memory that this process may use; a percentage is of that; auto: 75 %.")
    ] = "auto"
    cuda: Annotated[Size, Meta(description="Of each GPU; auto: 90 %.")] = "auto"
    parked: Annotated[
        Size, Meta(description="Of the same as cpu, what parked models may hold; auto: 10 %; 0: none is parked.")
    ] = "auto"
    sample_s: Annotated[Patience, Meta(le=3600, description="Between two looks at the memory.")] = 2.0


class Cache(Document, frozen=True):
    """What is kept of prompts and answers, so that the next turn of a chat reads only what is new."""

    enabled: Annotated[bool, Meta(description="Keep states, and look prompts up among those that are kept.")] = True
    host: Annotated[
        Size,
        Meta(description="Of the memory of each worker; a percentage is of [memory] cpu; auto: 1 %, at most 512 MiB."),
    ] = "auto"
    disk: Annotated[
        Size, Meta(description="Of the disk, for all models together; a percentage is of its size; auto: 2 GiB.")
    ] = "2 GiB"
    sessions: Annotated[
        Size,
        Meta(
            description="The same of sessions, of which the one goes that was unused for longest; auto: 2 GiB; 0: none."
        ),
    ] = "2 GiB"


class Sampling(Document, frozen=True):
    """What a request gets that does not say otherwise, of a model that does not either."""

    temperature: Temperature = 1.0
    top_p: TopP = 0.3  # as RWKV's authors advise for chat
    top_k: TopK = 0
    presence_penalty: PresencePenalty = 0.0
    frequency_penalty: FrequencyPenalty = 0.0
    penalty_decay: PenaltyDecay = 1.0
    max_tokens: AnswerTokens = 32768


class Limits(Document, frozen=True):
    """What a request may not exceed, of a model that says nothing else."""

    prompt_tokens: PromptTokens = 32768
    max_tokens: MaxTokens = 32768


class ModelSampling(Document, frozen=True):
    """What a request to this model gets that does not say otherwise; the rest is as in `[sampling]`."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    presence_penalty: PresencePenalty | None = None
    frequency_penalty: FrequencyPenalty | None = None
    penalty_decay: PenaltyDecay | None = None
    max_tokens: AnswerTokens | None = None


class ModelLimits(Document, frozen=True):
    """What a request to this model may not exceed; the rest is as in `[limits]`."""

    prompt_tokens: PromptTokens | None = None
    max_tokens: MaxTokens | None = None


class Model(Document, frozen=True):
    """One model, or what differs for one that was found in a models directory. What is not said is as everywhere."""

    name: Annotated[str, Meta(min_length=1, max_length=128, description="What requests call it.", examples=["goose"])]
    path: Annotated[
        str | None,
        Meta(
            description="The checkpoint: absolute, or relative to a models directory; else what is found by the name.",
            examples=["goose.pth"],
        ),
        MODEL,
    ] = None
    engine: Annotated[str, Meta(description="What runs it."), MODEL] = "rwkv"
    strategy: Strategy | None = None
    template: Annotated[
        str | None, Meta(description="How prompts are written; auto: by the file's name.", examples=["auto"]), MODEL
    ] = None
    threads: Annotated[
        Threads, Meta(description="Threads of its worker; 0: what suits it, at most those of [engine]."), MODEL
    ] = 0
    max_concurrency: Concurrency | None = None
    aliases: Annotated[tuple[str, ...], Meta(description="Other names it goes by.")] = ()
    keep_alive: Annotated[
        Duration | None, Meta(description="From its last use to its unloading; negative: it stays for ever.")
    ] = None
    pin: Annotated[bool, Meta(description="Never evict it, nor let it expire.")] = False
    preload: Annotated[bool, Meta(description="Load it now, and whenever the daemon starts.")] = False
    state: Annotated[
        Annotated[str, Meta(min_length=1, max_length=256)] | None,
        Meta(
            description="The state-tuned initial state it starts from: a name, or name@version.",
            examples=["poet"],
        ),
    ] = None
    sampling: ModelSampling = ModelSampling()
    limits: ModelLimits = ModelLimits()


class Alias(Document, frozen=True):
    """A name that leads to a model, to one as an earlier version of the configuration had it, or to several by weight."""

    name: Annotated[str, Meta(min_length=1, max_length=128, description="What requests call it.", examples=["chat"])]
    to: Annotated[
        Target | dict[Target, Weight],
        Meta(
            description="The model, or each with its share of the sessions; `@` and a version: as that version had it.",
            examples=[{"goose@2": 95, "goose@3": 5}],
            extra={"unit": "target"},
        ),
    ]
    revert: Annotated[bool, Meta(description="Take a target away that does worse than the heaviest one.")] = True

    @property
    def weights(self) -> dict[str, float]:
        """By target; one that is alone has all."""
        return {self.to: 1.0} if isinstance(self.to, str) else self.to


class Settings(Document, frozen=True):
    """One reading of the configuration."""

    server: Server = Server()
    lifecycle: Lifecycle = Lifecycle()
    models: Models = Models()
    engine: Engine = Engine()
    memory: Memory = Memory()
    cache: Cache = Cache()
    sampling: Sampling = Sampling()
    limits: Limits = Limits()
    model: tuple[Model, ...] = ()
    alias: tuple[Alias, ...] = ()
