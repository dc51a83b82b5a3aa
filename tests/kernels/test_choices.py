"""Tiles are chosen by a formula, or as they were found fastest; never by a file that nobody has measured."""

from itertools import product as combinations
from pathlib import Path

import msgspec
import pytest
import torch

from cortexd_kernels.choices import (
    CANDIDATES,
    Choices,
    Product,
    Split,
    Tile,
    Vector,
    bucket,
    is_kept,
    keep_choices,
    kept_choices,
    name,
    split,
    tile,
    vector,
)
from cortexd_kernels.hardware import Hardware
from cortexd_kernels.operators import UNIT
from cortexd_kernels.release import folder

HERE = Hardware("NVIDIA H200", "9.0", "570.86.15")
KEY = Product(8192, 2048, torch.float16, torch.float16)
HEAD = Product(65536, 2048, torch.int8, torch.bfloat16)
VECTOR = Vector(16, 256, 8, 3, 4)
TILE = Tile(128, 128, 64, 3, 8)


def test_without_a_choice_the_formula_holds():
    choices = Choices()
    assert choices.vector(KEY) == vector(KEY) == Vector(16, 256, 8, 3, 4)
    assert choices.vector(HEAD) == Vector(16, 512, 16, 3, 4)
    assert choices.tile(KEY, 300) == tile(KEY, 300) == Tile(128, 128, 64, 3, 8)
    assert choices.tile(KEY, 9) == Tile(16, 16, 128, 5, 4)
    assert choices.split(KEY, 3) == split(KEY, 3) == Split(16, 64, 64, 1024, 3, 4)
    assert choices.split(KEY._replace(stored=torch.uint8), 3) == Split(16, 128, 64, 512, 3, 4)


def test_what_was_measured_holds_for_its_product_and_up_to_its_number_of_rows():
    choice = tile(KEY, 256)._replace(warps=4)
    choices = Choices({name("tile", KEY, 200): list(choice)})
    assert [choices.tile(KEY, count) for count in (129, 256)] == [choice] * 2
    for other, count in ((KEY, 128), (KEY, 257), (HEAD, 256), (KEY._replace(dtype=torch.bfloat16), 256)):
        assert choices.tile(other, count) == tile(other, count)


def test_a_choice_for_few_rows_holds_for_one_as_for_eight():
    few = split(KEY, 1)._replace(programs=512)
    choices = Choices({name("split", KEY, 8): few, name("vector", KEY): vector(KEY)._replace(stages=2)})
    assert [choices.split(KEY, count) for count in (1, 3, 8)] == [few] * 3
    assert choices.vector(KEY).stages == 2
    assert choices.split(KEY, 9) == split(KEY, 9)


@pytest.mark.parametrize(
    "kept", [[], [16, 256, 8, 3], [7, 256, 8, 3, 4], [16, 256, 8, 3, 1024], [-1] * 5, [16, 256, 8, 99, 4]]
)
def test_what_is_no_candidate_is_passed_over(kept: list[int]):
    assert Choices({name("vector", KEY): kept}).vector(KEY) == vector(KEY)


@pytest.mark.parametrize("kind", CANDIDATES)
def test_the_formula_is_the_first_of_a_handful_of_candidates_that_kernels_can_be_made_of(kind: str):
    formulas = {"vector": lambda product, _: vector(product), "tile": tile, "split": split}
    dtypes = (
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.int8, torch.bfloat16),
        (torch.uint8, torch.bfloat16),
    )
    for (stored, dtype), size, count in combinations(dtypes, ((768, 768), (65536, 4096)), (1, 9, 128, 5000)):
        asked = Product(*size, stored, dtype)
        found = CANDIDATES[kind](asked, count)
        assert found[0] == formulas[kind](asked, bucket(count))
        assert 3 <= len(set(found)) == len(found) <= 16
        for choice in found:
            numbers = choice._asdict()
            stages = numbers.pop("stages")
            assert 2 <= stages <= 6
            assert all(number & (number - 1) == 0 < number for number in numbers.values()), choice
            if isinstance(choice, Vector):
                assert UNIT % choice.rows == 0
                assert choice.rows * choice.depth * stored.itemsize == 64 * 32 * choice.warps
            else:
                assert choice.tokens >= 16


def test_choices_are_kept_beside_those_of_other_models(tmp_path: Path):
    keep_choices(tmp_path, HERE, {name("vector", KEY): vector(KEY)._replace(stages=2)})
    keep_choices(tmp_path, HERE, {name("vector", HEAD): vector(HEAD)._replace(stages=4)})
    choices = kept_choices(tmp_path, HERE)
    assert (choices.vector(KEY).stages, choices.vector(HEAD).stages) == (2, 4)
    assert is_kept(tmp_path, HERE, "vector 8192 x 2048 float16 float16")
    assert not is_kept(tmp_path, HERE, "tile 8192 x 2048 float16 float16 to 128")


@pytest.mark.parametrize("field", Hardware.__struct_fields__)
def test_they_do_not_hold_for_another_device_or_driver(tmp_path: Path, field: str):
    keep_choices(tmp_path, HERE, {name("vector", KEY): vector(KEY)._replace(stages=2)})
    other = msgspec.structs.replace(HERE, **{field: "another"})
    (file,) = folder(tmp_path).glob("*.json")
    file.rename(file.with_name(f"{other.key}.choices.json"))
    assert kept_choices(tmp_path, other).vector(KEY) == vector(KEY)


@pytest.mark.parametrize("damage", [b"", b'{"choices": {}}', b"\xff"])
def test_of_a_damaged_file_the_formula_is_left_and_it_is_written_anew(tmp_path: Path, damage: bytes):
    choice = {name("vector", KEY): vector(KEY)._replace(stages=2)}
    keep_choices(tmp_path, HERE, choice)
    (file,) = folder(tmp_path).glob("*.json")
    file.write_bytes(damage)
    assert kept_choices(tmp_path, HERE).vector(KEY) == vector(KEY)
    keep_choices(tmp_path, HERE, choice)
    assert kept_choices(tmp_path, HERE).vector(KEY).stages == 2


def test_without_a_cache_the_formula_holds():
    assert kept_choices(None, HERE).tile(KEY, 128) == tile(KEY, 128)
