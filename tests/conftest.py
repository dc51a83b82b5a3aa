from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from cortexd.store import database
from cortexd.store.failures import store_errors
from tests.new_database import new_database

# Machines are noisy: no test is judged by its time.
settings.register_profile("cortexd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cortexd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes, most of them spent waiting, begins first, and the others run beside it."""
    items.sort(key=lambda item: item.get_closest_marker("minutes") is None)


@pytest.fixture(autouse=True, scope="session")
def _new_databases_are_copies() -> Iterator[None]:
    """Most tests want a new database, and few how it comes to be; those call `cortexd.store.migrate`, or start the program."""
    migrate = database.migrate

    def copy_or_migrate(path: Path) -> None:
        if path.stat().st_size == 0:
            with store_errors(path):
                path.write_bytes(new_database())
        migrate(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "migrate", copy_or_migrate)
        yield
