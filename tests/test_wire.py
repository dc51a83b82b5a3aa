"""Messages survive the wire, in whatever pieces it delivers them."""

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortexd import wire

COMMANDS: list[wire.Command] = [
    wire.Load(path="/models/goose.pth"),
    wire.Generate(
        id=1, prompt=wire.ChatPrompt([wire.Turn("user", "hi 🙂")], "low"), sampling=wire.Sampling(seed=2**64 - 1)
    ),
    wire.Generate(id=2, prompt=wire.TokenPrompt([1, 2]), sampling=wire.Sampling(logit_bias={0: -100.0}), stop=["x"]),
    wire.Cancel(2),
    wire.Ping(3),
    wire.Park(),
    wire.Resume(),
    wire.Suspend(),
    wire.Adopt(4, b"\x00\xff", last=True),
    wire.CacheLimits(host=2**30, disk=2**40, enabled=False),
    wire.ForgetStates(),
    wire.Shutdown(),
]
REPORTS: list[wire.Report] = [
    wire.Progress(1, 2),
    wire.Step([wire.Delta(1, "text", "", "stop", wire.Usage(1, 2, 3, 4))], [wire.Rejected(2, "no", "prompt")]),
    wire.LoadRefused("broken"),
    wire.Pong(3, 1, 0),
    wire.Parked(),
    wire.Saved(4, b"\x00\xff"),
    wire.Suspended(),
]


@given(cuts=st.lists(st.integers(1, 40)))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(cuts: list[int]):
    stream = b"".join(wire.encode(command) for command in COMMANDS)
    reader, found = wire.FrameReader(), []
    for cut in [*cuts, len(stream)]:
        found += [wire.decode_command(frame) for frame in reader.feed(stream[:cut])]
        stream = stream[cut:]
    assert found == COMMANDS


def test_reports_come_back_as_they_were():
    frames = wire.FrameReader().feed(b"".join(wire.encode(report) for report in REPORTS))
    assert [wire.decode_report(frame) for frame in frames] == REPORTS


def test_an_impossible_length_is_an_error_and_not_an_endless_wait():
    with pytest.raises(ValueError, match="exceeds the limit"):
        wire.FrameReader().feed(struct.pack("<I", wire.MAX_FRAME + 1))


def test_a_message_of_the_other_direction_is_refused_at_the_border():
    (frame,) = wire.FrameReader().feed(wire.encode(wire.Ping(1)))
    with pytest.raises(msgspec.ValidationError):
        wire.decode_report(frame)


def test_parts_fit_into_frames_and_make_the_whole():
    data = bytes(2 * wire.SAVED_PART + 1)
    assert [len(part) for part in wire.parts(data)] == [wire.SAVED_PART, wire.SAVED_PART, 1]
    assert wire.SAVED_PART < wire.MAX_FRAME
    assert wire.parts(b"") == [b""]
