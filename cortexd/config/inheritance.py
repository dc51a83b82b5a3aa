"""What a model takes from the sections that hold for all."""

from typing import TypeVar

import msgspec

from cortexd.config.document import Document, Model, ModelLimits, ModelSampling, Settings

D = TypeVar("D", bound=Document)


def effective(model: Model, settings: Settings) -> Model:
    """`model` with what it leaves open as `[lifecycle]`, `[engine]`, `[sampling]` and `[limits]` have it."""
    inherited = msgspec.structs.replace(
        model,
        keep_alive=settings.lifecycle.keep_alive if model.keep_alive is None else model.keep_alive,
        strategy=settings.engine.strategy if model.strategy is None else model.strategy,
        max_concurrency=model.max_concurrency or settings.engine.max_concurrency,
        threads=model.threads or settings.engine.threads,
    )
    return msgspec.structs.replace(
        inherited,
        sampling=_over(settings.sampling, model.sampling, ModelSampling),
        limits=_over(settings.limits, model.limits, ModelLimits),
    )


def _over(general: Document, own: Document, kind: type[D]) -> D:
    said = {name: value for name, value in msgspec.structs.asdict(own).items() if value is not None}
    return kind(**{**msgspec.structs.asdict(general), **said})
