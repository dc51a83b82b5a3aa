"""`cortexd simulate`."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from cortexd.cli.main import cli
from cortexd.errors import InvalidConfiguration
from cortexd.simulation.traces import generate, write_trace
from cortexd.store.store import Store
from tests.store.stores import bug


def _run(*arguments: str) -> str:
    done = CliRunner().invoke(cli, ["simulate", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_table_shows_each_policy_beside_the_optimum():
    lines = _run("--generate", "all", "--requests", "60", "--models", "5", "--budget", "50%").splitlines()
    rows = [line.split() for line in lines[2:]]
    assert [row[0] for row in rows] == [kind for kind in ("zipf", "diurnal", "bursty", "alternating") for _ in range(3)]
    assert [row[3] for row in rows] == ["cost-aware", "lru", "optimum"] * 4


def test_a_file_is_replayed_under_a_budget_in_bytes(tmp_path: Path):
    path = tmp_path / "monday.jsonl"
    trace = generate("bursty", models=4, requests=40)
    write_trace(trace, path)
    (comparison,) = json.loads(_run(str(path), "--budget", "16.5GB", "--json"))
    assert (comparison["trace"], comparison["budget"]) == ("monday", 16_500_000_000)
    assert [row["policy"] for row in comparison["rows"]] == ["cost-aware", "lru"]
    assert all(row["outcome"]["requests"] == 40 for row in comparison["rows"])


def test_a_part_is_never_less_than_the_largest_model_needs():
    largest = max(model.bytes for model in generate("zipf", models=4, requests=10).models)
    output = _run("--generate", "zipf", "--models", "4", "--requests", "10", "--budget", "1%", "--json")
    assert json.loads(output)[0]["budget"] == largest


def test_an_inexact_optimum_is_marked():
    arguments = ("--generate", "zipf", "--requests", "200", "--budget", "50%", "--models")
    assert "may be less" in _run(*arguments, "20")
    assert "may be less" not in _run(*arguments, "5")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "Give either a TRACE, --generate or --journal."),
        (("trace.jsonl", "--generate", "zipf"), "Give either a TRACE, --generate or --journal."),
        (("--generate", "zipf", "--journal"), "Give either a TRACE, --generate or --journal."),
        (("--journal", "--since", "yesterday"), "'yesterday' is not a duration"),
        (("--generate", "zipf", "--budget", "much"), "'much' is neither a size such as 24GB nor a part such as 50%."),
        (("--generate", "zipf", "--budget", "0%"), "'0%' is neither"),
    ],
)
def test_what_cannot_be_meant_is_said_so(arguments: tuple[str, ...], complaint: str):
    done = CliRunner().invoke(cli, ["simulate", *arguments])
    assert done.exit_code == 2
    assert complaint in " ".join(done.output.split())


def test_a_damaged_trace_is_named(tmp_path: Path):
    (tmp_path / "bad.jsonl").write_text("no JSON\n")
    with pytest.raises(InvalidConfiguration, match=r"bad\.jsonl, line 1"):
        _run(str(tmp_path / "bad.jsonl"))


def _journal(path: Path, *requests: tuple[float, str]) -> tuple[str, ...]:
    """Arguments that replay these requests, each as so many seconds ago, of a daemon that had only the demo model."""

    async def serve() -> None:
        store = Store(path, bug)
        await store.start()
        for ago, model in requests:
            store.usage.note(time.time() - ago, model, 0.0, 1.0)
        await store.close()

    asyncio.run(serve())
    return ("--journal", "--database", str(path), "--set", f"models.directories={path.parent}")


def test_the_journal_is_replayed_under_the_daemons_own_budget(tmp_path: Path):
    arguments = _journal(tmp_path / "db", (9000, "demo"), (60, "demo"), (30, "demo"))
    done = CliRunner().invoke(cli, ["simulate", *arguments, "--since", "1h", "--set", "memory.cpu=1 GB", "--json"])
    assert (done.exit_code, "demo was never measured" in done.stderr) == (0, True)
    (comparison,) = json.loads(done.stdout)
    assert (comparison["trace"], comparison["budget"]) == ("journal", 10**9)
    assert [row["outcome"]["requests"] for row in comparison["rows"]] == [2, 2]


def test_a_table_of_the_journal_begins_with_what_was_assumed(tmp_path: Path):
    output = _run(*_journal(tmp_path / "db", (60, "demo")), "--budget", "100%")
    assert output.startswith("demo was never measured: ")
    assert "cost-aware" in output


def test_a_journal_without_requests_ends_with_its_own_code(tmp_path: Path):
    done = CliRunner().invoke(cli, ["simulate", *_journal(tmp_path / "db")])
    assert done.exit_code == 4
    assert done.stderr == "cortexd: The journal holds no request that could be replayed.\n"
