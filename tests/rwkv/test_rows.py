"""From how many rows on a product's rows do not depend on their number, and how a process learns it that must not try."""

import os
import subprocess
import sys

import msgspec
import pytest
import torch
import torch.nn.functional as F

from cortexd.rwkv.rows import learn, least_rows, survey


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_the_least_rows_on_no_row_depends_on_their_number(dtype: torch.dtype):
    x, weight = torch.randn(48, 96).to(dtype), torch.randn(80, 96).to(dtype)
    whole = F.linear(x, weight)
    for rows in range(least_rows(dtype, torch.get_num_threads()), 48):
        assert torch.equal(F.linear(x[:rows], weight), whole[:rows])


def test_a_process_that_has_learnt_does_not_try():
    program = (
        "import sys, os\n"
        "import torch\n"
        "from cortexd.rwkv.rows import learn, least_rows\n"
        "learn(sys.stdin.buffer.read())\n"
        "print(*(least_rows(dtype, n) for n in (3, 1) for dtype in (torch.float32, torch.bfloat16)))\n"
        "print(len(os.listdir('/proc/self/task')))\n"
    )
    found = [["fp32", 3, 32], ["bf16", 3, 2], ["fp32", 1, 8], ["bf16", 1, 1]]
    told = subprocess.run(
        [sys.executable, "-c", program], input=msgspec.msgpack.encode(found), capture_output=True, check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert told.stdout.split() == [b"32", b"2", b"8", b"1", b"1"]


def test_a_survey_covers_every_share_of_the_cores():
    before = torch.get_num_threads()
    try:
        findings = msgspec.msgpack.decode(survey(3))
    finally:
        torch.set_num_threads(before)
    assert {(dtype, threads) for dtype, threads, _ in findings} == {(d, n) for d in ("fp32", "bf16") for n in (3, 1)}


def test_what_is_no_survey_is_refused():
    with pytest.raises(msgspec.MsgspecError):
        learn(b"")
