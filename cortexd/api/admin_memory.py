"""Where the memory is, and who waits for whom."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from cortexd.api.admin_schema import MemoryReport, ModelMemory, PredictionReport, device_memory
from cortexd.api.bodies import json_response
from cortexd.daemon import Daemon
from cortexd.lifecycle.prediction import Predictor


class MemoryAdministration:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def memory(self, request: Request) -> Response:  # noqa: ARG002 - Starlette's signature
        supervisor = self._daemon.supervisor
        holdings = {holding.key: holding for holding in supervisor.view.holdings()}
        models: list[ModelMemory] = []
        for key, model in supervisor.models.items():
            status, holding = supervisor.view.status(model), holdings.get(key)
            if any(status.memory.values()):
                entry = ModelMemory(
                    model=status.name,
                    state=status.state,
                    memory=status.memory,
                    pinned=status.pinned,
                    cost=None if holding is None else round(holding.cost, 6),
                    why_not="on its way out" if holding is None else holding.why_not,
                )
                models.append(entry)
        devices = {device: device_memory(at) for device, at in supervisor.view.memory().items()}
        return json_response(
            MemoryReport(devices, models, supervisor.view.ranking.leader, _prediction(self._daemon.predictor))
        )

    async def wait_graph(self, request: Request) -> Response:  # noqa: ARG002
        lines = self._daemon.supervisor.view.wait_graph()
        return PlainTextResponse("".join(f"{line}\n" for line in lines))


def _prediction(predictor: Predictor | None) -> PredictionReport | None:
    if predictor is None:
        return None
    return PredictionReport(
        active=predictor.active, hits=predictor.hits, misses=predictor.misses, hit_rate=predictor.hit_rate
    )
