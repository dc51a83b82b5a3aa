"""Traces, made up and read."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from cortexd.errors import InvalidConfiguration
from cortexd.simulation.traces import GENERATORS, generate, read_trace, write_trace

_MODEL = '{"name": "a", "bytes": 10, "load_seconds": 2.5}\n'


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_trace_is_as_long_as_asked_for_in_order_and_repeatable(kind: str):
    trace = generate(kind, seed=3, models=5, requests=200)
    assert len(trace.models) == 5
    assert len(trace.requests) == 200
    assert list(trace.requests) == sorted(trace.requests, key=lambda request: request.at)
    assert trace == generate(kind, seed=3, models=5, requests=200)
    assert trace != generate(kind, seed=4, models=5, requests=200)


@pytest.mark.parametrize("kind", GENERATORS)
def test_what_was_written_is_read(kind: str, tmp_path: Path):
    trace = generate(kind, models=4, requests=50)
    write_trace(trace, tmp_path / "trace.jsonl")
    assert read_trace(tmp_path / "trace.jsonl") == trace


def test_large_models_load_longer():
    models = sorted(generate("zipf").models, key=lambda model: model.bytes)
    assert [m.load_seconds for m in models] == sorted(m.load_seconds for m in models)
    assert models[-1].bytes > 2 * models[0].bytes


def test_zipf_asks_for_the_first_model_twice_as_often_as_for_the_second():
    counts = Counter(request.model for request in generate("zipf", requests=20_000).requests)
    assert counts["model-01"] / counts["model-02"] == pytest.approx(2.0, rel=0.1)


def _repeats(kind: str) -> float:
    """The part of requests that are for the model of the one before."""
    requests = generate(kind, models=20, requests=5000).requests
    return sum(a.model == b.model for a, b in pairwise(requests)) / len(requests)


def test_bursts_repeat_and_turns_do_not():
    assert _repeats("alternating") < 0.01 < _repeats("zipf") < _repeats("bursty")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "line 1: "),
        ('{"name": "a", "bytes": 0, "load_seconds": 1}', "line 1: .*>= 1"),
        ('{"name": "a", "bytes": 1, "load_seconds": 1, "colour": "red"}', "line 1: .*colour"),
        (_MODEL + _MODEL, "line 2: the model 'a' is described twice"),
        (_MODEL + '\n{"at": 1, "model": "b"}', "line 3: no line before this one describes the model 'b'"),
        (_MODEL + '{"at": 2, "model": "a"}\n{"at": 1, "model": "a"}', "line 3: .* in order of time"),
        (_MODEL + "[]", "line 2: "),
        (_MODEL, "holds no request"),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong(text: str, complaint: str, tmp_path: Path):
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    with pytest.raises(InvalidConfiguration, match=complaint):
        read_trace(path)


def test_a_missing_file_is_a_sentence_too(tmp_path: Path):
    with pytest.raises(InvalidConfiguration, match="cannot be read: No such file"):
        read_trace(tmp_path / "none.jsonl")
