import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.rates import KINDS, STREAMS, decode_name
from tests.bench.turns import HISTORIES, history_name

pytest.importorskip("matplotlib")
from tests.bench import plots


def results() -> dict[str, Any]:
    figures: dict[str, list[float]] = {"first turn, ms": [50, 60, 40]}
    for kind in KINDS:
        for streams in STREAMS:
            name = decode_name(kind, streams)
            figures |= {f"{name}, tok/s": [100.0 * streams], f"{name}, floor": [120.0 * streams]}
    for length in HISTORIES:
        name = history_name(length)
        figures[f"{name} of history read for the first time, first token ms"] = [length / 2]
        figures[f"next turn after {name}, ms"] = [55.0]
    return {"shapes": {"bench-0.1b": figures, "the daemon alone": {"diff": [1.0]}}}


def peer() -> dict[str, Any]:
    medians = {f"decode of {streams}, tok/s": {"ours": 1.0, "theirs": 80.0 * streams} for streams in STREAMS}
    return {"shape": "bench-0.1b", "peer": {"address": "http://x", "model": "their Q8_0"}, "medians": medians}


def test_two_pictures_are_drawn_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results()))
    (tmp_path / "against.json").write_text(json.dumps(peer()))
    drawn: list[dict[str, str]] = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        command = ["plots", str(tmp_path / "results.json"), str(folder), "--against", str(tmp_path / "against.json")]
        monkeypatch.setattr(sys, "argv", command)
        plots.main()
        drawn.append({path.name: path.read_text() for path in folder.iterdir()})
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {"decode.svg", "next-turn.svg"}
    for text in ("bench-0.1b", "cortexd int8", "floor of bf16", "their Q8_0"):
        assert text in drawn[0]["decode.svg"]
    assert "32 k" in drawn[0]["next-turn.svg"]
    assert "the daemon alone" not in "".join(drawn[0].values())
