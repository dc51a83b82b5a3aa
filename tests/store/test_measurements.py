from pathlib import Path

from cortexd.moments import Moments
from cortexd.store.measurements import Key, Measurements
from tests.store.stores import bug, opened

GOOSE = Key("sha256:1", "cuda fp16", "cuda:0")


async def test_the_next_daemon_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    expected = Moments()
    for value in (2.0, 3.0, 7.0):
        async with opened(tmp_path / "db") as database:
            measurements = Measurements(database, bug)
            known = await measurements.load()
            assert known.get(GOOSE, {}).get("load_seconds", Moments()) == expected
            measurements.record(GOOSE, "load_seconds", value)
            expected = expected.including(value)
            await measurements.close()


async def test_quantities_and_keys_are_kept_apart(tmp_path: Path) -> None:
    elsewhere = GOOSE._replace(device="cpu")
    async with opened(tmp_path / "db") as database:
        measurements = Measurements(database, bug)
        await measurements.load()
        measurements.record(GOOSE, "peak_bytes", 4 << 30)
        measurements.record(GOOSE, "resident_bytes", 3 << 30)
        measurements.record(elsewhere, "peak_bytes", 5 << 30)
        await measurements.close()
        means = {
            key: {what: measured.mean for what, measured in quantities.items()}
            for key, quantities in (await Measurements(database, bug).load()).items()
        }
    assert means == {
        GOOSE: {"peak_bytes": 4 << 30, "resident_bytes": 3 << 30},
        elsewhere: {"peak_bytes": 5 << 30},
    }


async def test_what_was_loaded_is_the_callers_own(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        measurements = Measurements(database, bug)
        (await measurements.load())[GOOSE] = {"load_seconds": Moments(9, 9.0, 9.0)}
        measurements.record(GOOSE, "load_seconds", 1.0)
        await measurements.close()
        assert await Measurements(database, bug).load() == {GOOSE: {"load_seconds": Moments(1, 1.0, 0.0)}}


async def test_the_use_of_a_model_is_remembered_word_for_word(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        measurements = Measurements(database, bug)
        await measurements.load()
        measurements.remember("goose", b'{"uses": 1}')
        measurements.remember("gänschen", '{"näm": 2}'.encode())
        await measurements.flush()
        measurements.remember("goose", b'{"uses":  2}')
        await measurements.close()
    async with opened(tmp_path / "db") as database:
        recalled = await Measurements(database, bug).recall()
    assert recalled == {"goose": b'{"uses":  2}', "gänschen": '{"näm": 2}'.encode()}
