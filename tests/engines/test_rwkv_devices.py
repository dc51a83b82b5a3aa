"""Where models are computed, and what they will hold of each device."""

import pytest

from cortexd.catalogue.spec import ModelSpec
from cortexd.engines import rwkv_devices
from cortexd.engines.rwkv_devices import footprints, problem_of, settled
from cortexd.engines.rwkv_footprint import footprint

GB = 10**9
NONE: dict[str, int] = {}  # of the GPUs anything is known


@pytest.fixture(autouse=True)
def _gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rwkv_devices, "has_gpu", lambda: True)


def goose(**changes: object) -> ModelSpec:
    """In the shape of the official 1.5B."""
    fields: dict[str, object] = {
        "name": "goose",
        "source": "file",
        "path": "/goose.pth",
        "parameters": 1_527_000_000,
        "vocabulary": 65536,
        "width": 2048,
        "layers": 24,
        "state_bytes": 12_976_128,
        "stored": "BF16",
        "max_concurrency": 32,
        **changes,
    }
    return ModelSpec(**fields)  # type: ignore[arg-type]


def test_on_a_gpu_lie_the_weights_and_the_states_and_on_the_host_next_to_nothing():
    needed = footprints(goose(strategy="cuda:0 bf16"), NONE, 512)
    assert needed.keys() == {"cpu", "cuda:0"}
    assert 2 * 1.527 * GB + 32 * 12_976_128 < needed["cuda:0"] < 5 * GB
    assert needed["cpu"] < GB / 2


def test_states_in_fp16_take_half_the_place():
    wide, half = (footprints(goose(strategy=f"cuda fp16{word}"), NONE, 512)["cuda:0"] for word in ("", " states fp16"))
    assert wide - half == 16 * 12_976_128


def test_of_int4_a_gpu_holds_half_the_bytes_of_int8_but_for_the_head():
    layers, head = 1_527_000_000 - 2 * 65536 * 2048, 65536 * 2048
    eight, four = (footprints(goose(strategy=f"cuda {name}"), NONE, 512)["cuda:0"] for name in ("int8", "int4"))
    assert eight - four == pytest.approx(layers * 0.5, rel=0.01)
    eight, four = (
        footprints(goose(strategy=f"cuda int8 -> cuda:1 {name} *1"), NONE, 512)["cuda:1"] for name in ("int8", "int4")
    )
    assert eight == four > head


def test_parts_hold_what_they_compute():
    needed = footprints(goose(strategy="cuda:0 bf16 *12 -> cuda:1 bf16"), NONE, 512)
    whole = footprints(goose(strategy="cuda:0 bf16"), NONE, 512)["cuda:0"]
    assert max(needed["cuda:0"], needed["cuda:1"]) < whole
    assert needed["cuda:0"] + needed["cuda:1"] > whole
    assert abs(needed["cuda:0"] - needed["cuda:1"]) < 0.2 * whole


def test_what_is_streamed_lies_on_the_host():
    resident, streamed = (
        footprints(goose(strategy="cuda fp16"), NONE, 512),
        footprints(goose(strategy="cuda fp16 *4+"), NONE, 512),
    )
    assert streamed["cuda:0"] < 0.6 * resident["cuda:0"]
    assert streamed["cpu"] - resident["cpu"] > 2 * GB


def test_without_a_gpu_the_host_holds_all_of_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rwkv_devices, "has_gpu", lambda: False)
    needed = footprints(goose(strategy="cuda fp16 *20 -> cpu fp32"), NONE, 512)
    assert needed == {"cpu": footprint(goose(strategy="auto"), 512)}


@pytest.mark.parametrize(("stored", "dtype"), [("BF16", "bf16"), ("F16", "fp16"), ("F32", "fp32")])
def test_auto_is_the_first_gpu_that_holds_the_whole_model_as_it_is_stored(stored: str, dtype: str):
    gpus = {"cuda:0": 2 * GB, "cuda:1": 24 * GB, "cuda:2": 80 * GB}
    assert settled(goose(stored=stored), gpus, 512).strategy == f"cuda:1 {dtype}"


@pytest.mark.parametrize("gpus", [{}, {"cuda:0": 2 * GB}])
def test_auto_is_the_cpu_where_no_gpu_holds_the_model(gpus: dict[str, int]):
    assert settled(goose(), gpus, 512).strategy == "auto"


@pytest.mark.parametrize("spec", [goose(strategy="cpu int8"), goose(strategy="cuda:3 fp16"), goose(parameters=0)])
def test_what_is_said_or_unknown_stays_as_it_is(spec: ModelSpec):
    assert settled(spec, {"cuda:0": 80 * GB}, 512) == spec


def test_the_host_alone_is_foretold_as_ever():
    assert footprints(goose(strategy="cpu int8"), NONE, 512, 1000) == {
        "cpu": footprint(goose(strategy="cpu int8"), 512, 1000)
    }


def test_of_what_cannot_be_read_nothing_is_foretold():
    assert footprints(goose(parameters=0, strategy="cuda fp16"), NONE, 512) == {"cpu": 0}


@pytest.mark.parametrize(
    "strategy", ["auto", "cpu int8", "cuda fp16", "cuda:1 bf16 *3 -> cpu fp32", "cuda int8 *10+", "cuda int4"]
)
def test_what_can_be_run_has_no_problem(strategy: str):
    assert problem_of(strategy) is None


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        ("cuda fp64", "'fp64' is no number format of a strategy"),
        ("gpu fp16", "'gpu fp16' is no part of a strategy"),
        ("cpu fp32 *3", "can run: use 'auto', 'cpu fp32'"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_sentence(strategy: str, told: str):
    problem = problem_of(strategy)
    assert told in str(problem)
    assert "\n" not in str(problem)
