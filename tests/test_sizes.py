"""Sizes are read as people write them, and what is none is refused in one sentence."""

import pytest

from cortexd.errors import InvalidConfiguration
from cortexd.sizes import bytes_of, size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("12e9", 12_000_000_000),
        ("12 GB", 12_000_000_000),
        ("12GiB", 12 * 2**30),
        (" 1.5 mb ", 1_500_000),
        ("2 TiB", 2 * 2**40),
        ("512 B", 512),
        ("70 %", 700),
        ("12.5%", 125),
        ("100 %", 1000),
    ],
)
def test_a_size_is_bytes_decimal_or_binary_units_or_a_part_of_what_there_is(text: str, expected: int):
    assert bytes_of(text, 1000, key="memory.cpu") == expected


@pytest.mark.parametrize(
    "text", ["", "much", "-1", "12 G", "12 GB RAM", "1e", "101 %", "1e400", "nan", "½ GB", "1_000"]
)
def test_what_is_no_size_is_refused_with_its_key(text: str):
    with pytest.raises(InvalidConfiguration, match=r"^memory\.cuda: .*[^.]\.$"):
        bytes_of(text, 1000, key="memory.cuda")


def test_sizes_are_read_in_powers_of_a_thousand():
    assert [size(n) for n in (999, 1500, 2_340_000, 12.34e9, 5e12)] == [
        "999 B",
        "1.5 KB",
        "2.3 MB",
        "12.3 GB",
        "5000.0 GB",
    ]
