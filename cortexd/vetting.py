"""What is wrong with a configuration although each of its keys is right: known before it is in force."""

from collections.abc import Iterator, Sequence

from cortexd.catalogue.catalogue import Catalogue
from cortexd.catalogue.spec import ModelSpec
from cortexd.config import Settings
from cortexd.engines.registry import EngineRegistry
from cortexd.errors import UnknownModel
from cortexd.lifecycle.admission import size
from cortexd.lifecycle.history import History


def problems(
    settings: Settings, catalogue: Catalogue, registry: EngineRegistry, history: History, ceilings: dict[str, int]
) -> Iterator[str]:
    """One sentence for each. A checkpoint that is missing or damaged is none: it may be whole tomorrow, and is told in the plan."""
    configured = {model.name for model in settings.model}
    specs = catalogue.specs()
    for spec in specs:
        if spec.name in configured and (problem := registry.problem(spec)) is not None:
            yield f"model {spec.name}: {problem}"
    for alias in settings.alias:
        split = catalogue.split(alias.name)
        for target in split.targets if split is not None else ():
            try:
                catalogue.resolve(target)
            except UnknownModel as error:
                yield f"alias {alias.name}: {error.message}"
    yield from _pinned_beyond(specs, history, ceilings)


def _pinned_beyond(specs: Sequence[ModelSpec], history: History, ceilings: dict[str, int]) -> Iterator[str]:
    """What may never be evicted has to fit together."""
    pinned = [spec for spec in specs if spec.pin or (spec.keep_alive is not None and spec.keep_alive < 0)]
    for device, ceiling in ceilings.items():
        workers = {spec.hash: spec for spec in pinned if spec.problem is None}  # several names may share one
        needed = {spec.name: history.expected(spec).get(device, 0) for spec in workers.values()}
        if sum(needed.values()) > ceiling:
            each = ", ".join(f"{name} {size(count)}" for name, count in needed.items())
            yield (
                f"the models that are pinned need {size(sum(needed.values()))} on {device} together ({each}), "
                f"and the budget is {size(ceiling)}; unpin one, or raise memory.{device.partition(':')[0]}."
            )
