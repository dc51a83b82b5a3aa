"""All checks, one after the other. One that fails itself is told, and the others go on."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cortexd.catalogue.catalogue import Catalogue
from cortexd.config import Settings
from cortexd.doctor import (
    configuration,
    database,
    directories,
    gpu_devices,
    gpu_software,
    installation,
    limits,
    memory,
    native,
    running,
    service,
)
from cortexd.doctor.finding import Finding, warning
from cortexd.doctor.place import Place
from cortexd.engine_room import EngineRoom
from cortexd.engines.registry import EngineRegistry
from cortexd.engines.sessions import Sessions
from cortexd.lifecycle.history import History
from cortexd.memory.budget import cache_limits, ceilings
from cortexd.memory.host import Host
from cortexd.memory.nvidia import Gpus
from cortexd.vetting import problems

Check = Callable[[], Finding | Iterable[Finding]]


def examine(place: Place, heard: running.Heard, gpus: Gpus) -> Iterator[Finding]:
    """`heard` is what came from where the daemon should be; `gpus` tell how much memory they have."""
    for name, check in _checks(place, heard, gpus):
        yield from guarded(name, check)


def guarded(name: str, check: Check) -> list[Finding]:
    """This command is run where things are not as they should be: whatever a check meets there, the others are wanted."""
    found: list[Finding] = []
    try:
        result = check()
        for finding in [result] if isinstance(result, Finding) else result:
            found.append(finding)
    except Exception as error:
        says = f"This could not be looked at ({type(error).__name__}: {error})."
        found.append(warning(name, says, "Please report it with all that is said here."))
    return found


def _checks(place: Place, heard: running.Heard, gpus: Gpus) -> Iterator[tuple[str, Check]]:
    settings = configuration.settings_of(place)
    paths, file = place.paths, place.paths.data / "cortexd.db"
    graphics = gpu_devices.graphics(place)
    yield "system", installation.system
    yield "python", installation.python
    yield "cortexd", installation.cortexd
    yield "torch", lambda: installation.torch(place)
    yield "triton", lambda: installation.triton(place)
    yield "cpu kernels", native.native_kernels
    yield "gpu", lambda: gpu_devices.devices(place, graphics)
    if graphics:
        yield from _gpu_checks(place, graphics)
    yield "configuration", lambda: configuration.configuration(place)
    yield "model directory", lambda: configuration.model_directories(settings, paths.data)
    yield "models", lambda: _models(place, settings, gpus, graphics, heard)
    yield "directories", lambda: directories.directories(place)
    yield "memory", lambda: memory.memory(place)
    yield "sqlite", database.sqlite
    yield "database", lambda: database.database(file)
    yield "service", lambda: service.services(place)
    yield "open files", limits.open_files
    yield "address space", limits.address_space
    yield "cores", lambda: limits.cores(place)
    yield "oom score", lambda: limits.oom_score(place)
    yield "daemon", lambda: running.daemon(heard, in_use=_is_in_use(file))


def _gpu_checks(place: Place, graphics: gpu_devices.Graphics) -> Iterator[tuple[str, Check]]:
    yield "gpu access", lambda: gpu_devices.access(place, graphics)
    if graphics.nvidia:
        yield "nvml", gpu_devices.nvml
    if (torch := installation.torch_build(place)) is not None:
        yield "gpu torch", lambda: gpu_software.build(torch, graphics)
        yield "gpu trial", lambda: gpu_software.trial(place, torch, graphics)
    yield "gpu kernels", gpu_software.compiler
    yield "gpu kernels", lambda: gpu_software.library(place, graphics)
    yield "gpu kernels", lambda: gpu_software.verdicts(place.paths.cache)


def _is_in_use(file: Path) -> bool:
    try:
        return database.is_in_use(file)
    except PermissionError:  # which the check of the database tells
        return False


def _models(
    place: Place, settings: Settings, gpus: Gpus, graphics: gpu_devices.Graphics, heard: running.Heard
) -> Iterator[Finding]:
    catalogue = Catalogue(settings)
    catalogue.refresh()
    limits = ceilings(settings.memory, Host(place.root), gpus)
    room = EngineRoom(None, Sessions(None, lambda _: None))
    room.adopt(settings, cache_limits(settings.cache, limits["cpu"], None), limits)
    registry = EngineRegistry(room)
    history = History(registry.footprint)
    if not isinstance(heard, running.Answers):  # which tells itself what it offers
        wrong = problems(settings, catalogue, registry, history, limits)
        yield from configuration.models(catalogue, wrong, bool(graphics))
    yield from memory.budget(catalogue.specs(), limits, history.expected)
