"""Which engines there are: ours and others enter by the same door, the entry point group `cortexd.engines`."""

from importlib.metadata import entry_points

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines.protocol import Engine, EngineFactory, EngineHost
from cortexd.errors import LoadFailed

_GROUP = "cortexd.engines"


class EngineRegistry:
    """Makes the engine a spec names; engines are imported when first used."""

    def __init__(self, host: EngineHost) -> None:
        self._host = host
        self._points = {point.name: point for point in entry_points(group=_GROUP)}
        self._factories: dict[str, EngineFactory] = {}

    def make(self, spec: ModelSpec) -> Engine:
        """Raises LoadFailed where there is no such engine or it cannot be imported."""
        return self._factory(spec)(spec, self._host)

    def footprint(self, spec: ModelSpec) -> dict[str, int]:
        """Bytes by device that a load will need; nothing where that cannot be known, as the load will say why."""
        try:
            return self._factory(spec).footprint(spec, self._host)
        except LoadFailed:
            return {}

    def problem(self, spec: ModelSpec) -> str | None:
        """Why a load would be refused, as far as the spec alone says so; None where nothing stands against it."""
        try:
            return self._factory(spec).problem(spec)
        except LoadFailed as error:
            return error.message

    def _factory(self, spec: ModelSpec) -> EngineFactory:
        if spec.engine not in self._factories:
            if spec.engine not in self._points:
                known = ", ".join(sorted(self._points)) or "none"
                raise LoadFailed(f"{spec.name} asks for the engine {spec.engine!r}; installed are: {known}.")
            try:
                self._factories[spec.engine] = self._points[spec.engine].load()
            except ImportError as error:
                raise LoadFailed(f"The engine {spec.engine!r} cannot be imported: {error}.") from error
        return self._factories[spec.engine]
