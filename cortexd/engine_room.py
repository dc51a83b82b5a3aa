"""What engines share, and how they are measured."""

from pathlib import Path

from cortexd.config import Settings
from cortexd.engines.cores import Cores
from cortexd.engines.fork_server import ForkServer
from cortexd.engines.kept_states import KeptStates
from cortexd.memory.host import Host
from cortexd.memory.nvidia import Gpus
from cortexd.memory.process import Usage, measure
from cortexd.wire import CacheLimits


class EngineRoom:
    """Implements `cortexd.engines.protocol.EngineHost`."""

    def __init__(self, cache: Path | None) -> None:
        defaults = Settings().engine
        self.cores = Cores(defaults.thread_count)
        self.prefill_budget = defaults.prefill_budget
        self.cache = cache
        self.states = KeptStates(CacheLimits(), cache / "states" if cache is not None else None)
        self.fork_server = ForkServer()


class Scales:
    """Implements `cortexd.lifecycle.incarnation.Gauge`."""

    def __init__(self, host: Host, gpus: Gpus) -> None:
        self._host = host
        self._gpus = gpus

    def measure(self, pids: list[int]) -> Usage:
        return measure(pids, self._gpus)

    def oom_kills(self) -> int:
        return self._host.oom_kills()
