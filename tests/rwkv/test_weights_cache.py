"""Prepared weights: converted once, mapped ever after, and never in the way."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from cortexd.errors import LoadFailed
from cortexd.rwkv import weights_cache
from cortexd.rwkv.batch import Piece
from cortexd.rwkv.kept_weights import KeptWeights
from cortexd.rwkv.runner import Runner
from cortexd.rwkv.weights import Weights, open_weights
from cortexd.rwkv.weights_cache import WeightsCache
from tests.checkpoint_files import State, tiny_state_dict, write_hf, write_pth, write_safetensors


def no_report(done: int, total: int) -> None: ...


def load(path: Path, cache: WeightsCache | None, strategy: str = "cpu fp32") -> Weights:
    """As a runner does that has made its first token."""
    weights = open_weights(path, strategy, cache, no_report)
    if cache is not None and weights.fresh is not None:
        cache.publish(weights.fresh)
        cache.settle()
    return weights


def same(a: Weights, b: Weights) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(
        torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors
    )


def kept_files(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.weights"))


@pytest.fixture
def state() -> State:
    return tiny_state_dict(1, layers=2, vocabulary=257, dtype=torch.bfloat16)


@pytest.fixture
def checkpoint(tmp_path: Path, state: State) -> Path:
    write_pth(tmp_path / "goose.pth", state)
    return tmp_path / "goose.pth"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights"


@pytest.mark.parametrize("strategy", ["cpu fp32", "cpu bf16", "cpu int8", "cpu int4"])
@pytest.mark.parametrize("layout", ["pth", "safetensors", "hf", "hf-shards"])
def test_kept_weights_are_bitwise_what_a_conversion_gives(
    tmp_path: Path, folder: Path, state: State, layout: str, strategy: str
):
    path = tmp_path / f"goose.{layout}"
    match layout:
        case "pth":
            write_pth(path, state)
        case "safetensors":
            write_safetensors(path, state)
        case _:
            write_hf(path, state, shards=3 if layout == "hf-shards" else 1)
    converted, first = load(path, None, strategy), load(path, WeightsCache(folder), strategy)
    again = load(path, WeightsCache(folder), strategy)
    assert not first.trusted
    assert again.trusted
    assert same(first, converted)
    assert same(again, converted)
    assert again.bytes == converted.bytes


def test_what_the_checkpoint_holds_in_the_right_form_is_not_kept_twice(checkpoint: Path, folder: Path):
    weights = load(checkpoint, WeightsCache(folder), "cpu bf16")
    (kept,) = kept_files(folder)
    assert kept.stat().st_size < weights.bytes / 2


def test_auto_is_found_again_whatever_it_chose(checkpoint: Path, folder: Path):
    first = load(checkpoint, WeightsCache(folder), "auto")
    again = load(checkpoint, WeightsCache(folder), "auto")
    assert again.trusted
    assert again.strategy == first.strategy


def test_a_load_under_one_strategy_does_not_find_another(checkpoint: Path, folder: Path):
    load(checkpoint, WeightsCache(folder), "cpu fp32")
    assert not load(checkpoint, WeightsCache(folder), "cpu bf16").trusted
    assert len(kept_files(folder)) == 2


def test_a_changed_checkpoint_is_converted_again(checkpoint: Path, folder: Path):
    load(checkpoint, WeightsCache(folder))
    write_pth(checkpoint, tiny_state_dict(2, layers=2, vocabulary=257, dtype=torch.bfloat16))
    os.utime(checkpoint, ns=(1, 1))
    again = load(checkpoint, WeightsCache(folder))
    assert not again.trusted
    assert same(again, load(checkpoint, None))


def test_another_format_is_converted_again(checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    load(checkpoint, WeightsCache(folder))
    monkeypatch.setattr(weights_cache, "FORMAT", 2**20)
    assert not load(checkpoint, WeightsCache(folder)).trusted


@pytest.mark.parametrize("damage", ["empty", "cut", "tail", "index", "noise"])
def test_a_damaged_file_costs_a_conversion_and_is_replaced(checkpoint: Path, folder: Path, damage: str):
    load(checkpoint, WeightsCache(folder))
    (kept,) = kept_files(folder)
    data = bytearray(kept.read_bytes())
    match damage:
        case "empty":
            data.clear()
        case "cut":
            del data[len(data) // 2 :]
        case "tail":
            data[-1] ^= 1
        case "index":
            data[-200] ^= 1
        case "noise":
            data[:] = os.urandom(5000)
    kept.write_bytes(data)
    again = load(checkpoint, WeightsCache(folder))
    assert not again.trusted
    assert same(again, load(checkpoint, None))
    assert load(checkpoint, WeightsCache(folder)).trusted


def test_nobody_else_may_read_what_is_kept(checkpoint: Path, folder: Path):
    load(checkpoint, WeightsCache(folder))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert kept_files(folder)[0].stat().st_mode & 0o777 == 0o600


def test_weights_are_found_only_once_a_token_was_made_of_them(checkpoint: Path, folder: Path):
    cache = WeightsCache(folder)
    fresh = open_weights(checkpoint, "cpu fp32", cache, no_report).fresh
    assert fresh is not None
    assert not open_weights(checkpoint, "cpu fp32", WeightsCache(folder), no_report).trusted
    cache.publish(fresh)
    cache.settle()
    assert load(checkpoint, WeightsCache(folder)).trusted


def test_a_model_parked_before_its_weights_are_on_the_disk_maps_nothing_and_converts_nothing(
    checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    written = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda fd: written.wait())
    cache = WeightsCache(folder)
    runner = Runner(str(checkpoint), "cpu fp32", 4, no_report, cache)
    runner.park()
    assert kept_files(folder) == []
    assert str(folder) not in Path("/proc/self/maps").read_text()
    assert open_weights(checkpoint, "cpu fp32", cache, no_report).trusted
    written.set()
    cache.settle()
    assert len(kept_files(folder)) == 1


def test_weights_that_make_no_token_are_never_found(tmp_path: Path, folder: Path, state: State):
    state["blocks.1.ffn.value.weight"][:] = float("nan")
    write_pth(tmp_path / "nan.pth", state)
    for _ in range(2):
        with pytest.raises(LoadFailed, match="no finite numbers"):
            Runner(str(tmp_path / "nan.pth"), "cpu fp32", 2, no_report, WeightsCache(folder))
    assert kept_files(folder) == []


def test_the_longest_unused_goes_first(tmp_path: Path, folder: Path):
    paths = [tmp_path / f"goose{i}.pth" for i in range(3)]
    for i, path in enumerate(paths):
        write_pth(path, tiny_state_dict(i, layers=1, vocabulary=257, dtype=torch.bfloat16))
    load(paths[0], WeightsCache(folder))
    room = kept_files(folder)[0].stat().st_size * 5 // 2
    load(paths[1], WeightsCache(folder, room))
    for file in kept_files(folder):
        os.utime(file, ns=(1, 1))
    assert load(paths[0], WeightsCache(folder, room)).trusted  # used now
    load(paths[2], WeightsCache(folder, room))
    assert len(kept_files(folder)) == 2
    assert load(paths[0], WeightsCache(folder, room)).trusted
    assert not open_weights(paths[1], "cpu fp32", WeightsCache(folder, room), no_report).trusted


@pytest.mark.parametrize("room", [0, 100_000])
def test_without_room_a_load_works_and_nothing_is_kept(checkpoint: Path, folder: Path, room: int):
    assert same(load(checkpoint, WeightsCache(folder, room)), load(checkpoint, None))
    assert list(folder.iterdir()) == []


def test_where_no_directory_can_be_a_load_works(checkpoint: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert same(load(checkpoint, WeightsCache(tmp_path / "file" / "weights")), load(checkpoint, None))


def test_what_a_dead_process_left_is_removed_and_what_a_live_one_writes_is_not(checkpoint: Path, folder: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder.mkdir(parents=True)
    left, live = folder / f"a.{dead.pid}.part", folder / f"b.{os.getpid()}.part"
    for part in (left, live):
        part.write_text("")
    load(checkpoint, WeightsCache(folder))
    assert not left.exists()
    assert live.exists()


def test_progress_of_a_mapped_load_ends_with_all_its_bytes(checkpoint: Path, folder: Path):
    load(checkpoint, WeightsCache(folder))
    told: list[tuple[int, int]] = []
    weights = open_weights(checkpoint, "cpu fp32", WeightsCache(folder), lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (weights.bytes, weights.bytes)


def test_what_the_disk_does_not_give_back_is_told_by_whichever_thread_reads_it(checkpoint: Path, folder: Path):
    load(checkpoint, WeightsCache(folder))
    kept = KeptWeights(kept_files(folder)[0])
    os.truncate(kept.path, 0)
    with pytest.raises(OSError):
        kept.read_in(no_report, 2)


def test_a_parked_model_maps_nothing_and_computes_the_same_when_resumed(checkpoint: Path, folder: Path):
    def mapped() -> bool:
        return str(folder) in Path("/proc/self/maps").read_text()

    def compute(runner: Runner) -> torch.Tensor:
        slot = runner.pool.take()
        logits, _ = runner.run([Piece(slot, [1, 2, 3])])
        runner.pool.give_back(slot)
        return logits

    cache = WeightsCache(folder)
    runner = Runner(str(checkpoint), "cpu fp32", 4, no_report, cache)
    cache.settle()
    before = compute(runner)
    assert mapped()
    runner.park()
    assert not mapped()
    assert runner.pool.wkv.numel() == 0
    runner.resume(no_report)
    assert mapped()
    assert torch.equal(compute(runner), before)


def test_a_checkpoint_that_changed_while_its_model_was_parked_is_refused(checkpoint: Path, state: State):
    runner = Runner(str(checkpoint), "cpu fp32", 4, no_report)
    runner.park()
    write_pth(checkpoint, state)
    os.utime(checkpoint, ns=(1, 1))
    with pytest.raises(LoadFailed, match="has changed"):
        runner.resume(no_report)
