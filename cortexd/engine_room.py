"""What engines share, and how they are measured."""

from pathlib import Path

from cortexd.config import Settings
from cortexd.engines.cores import Cores
from cortexd.engines.fork_server import ForkServer
from cortexd.engines.kept_states import KeptStates
from cortexd.engines.sessions import Sessions
from cortexd.engines.tempo import Tempo
from cortexd.engines.torch_build import computes_on_gpus
from cortexd.memory.host import Host
from cortexd.memory.nvidia import Gpus
from cortexd.memory.process import Usage, measure
from cortexd.wire import CacheLimits


class EngineRoom:
    """Implements `cortexd.engines.protocol.EngineHost`."""

    def __init__(self, cache: Path | None, sessions: Sessions) -> None:
        defaults = Settings()
        self.cores = Cores(defaults.engine.thread_count)
        self.gpus: dict[str, int] = {}
        self.prefill_budget = defaults.engine.prefill_budget
        self.tempo = Tempo(defaults.engine.inter_token_target)
        self.queue_limit = defaults.lifecycle.queue_limit
        self.cache = cache
        self.states = KeptStates(CacheLimits(), cache / "states" if cache is not None else None)
        self.sessions = sessions
        self.fork_server = ForkServer()

    def adopt(self, settings: Settings, kept: CacheLimits, ceilings: dict[str, int]) -> None:
        """What of this affects engines that run, these are told. `ceilings` are in bytes, by device."""
        self.gpus = {name: room for name, room in ceilings.items() if name != "cpu"} if computes_on_gpus() else {}
        self.prefill_budget = settings.engine.prefill_budget
        self.queue_limit = settings.lifecycle.queue_limit
        self.tempo.change(settings.engine.inter_token_target)
        self.states.change(kept)
        self.sessions.change(kept.sessions)


class Scales:
    """Implements `cortexd.lifecycle.incarnation.Gauge`."""

    def __init__(self, host: Host, gpus: Gpus) -> None:
        self._host = host
        self._gpus = gpus

    def measure(self, pids: list[int]) -> Usage:
        return measure(pids, self._gpus)

    def oom_kills(self) -> int:
        return self._host.oom_kills()
