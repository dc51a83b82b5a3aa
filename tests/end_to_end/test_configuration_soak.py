"""The soak test of the configuration, shortened; `make soak` runs the whole."""

import asyncio
import re
import sys


async def killed(kills: int, seed: int) -> tuple[int, int]:
    """How many daemons were killed, and how many changes they had acknowledged."""
    soak = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "tests.end_to_end.configuration_soak",
        "--kills", str(kills), "--seed", str(seed), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said = (await soak.communicate())[0].decode()
    assert soak.returncode == 0, said
    found = re.search(r"^(\d+) daemons killed,.*'acknowledged': (\d+)", said)
    assert found, said
    return int(found[1]), int(found[2])


async def test_a_daemon_killed_at_any_time_loses_no_change_that_was_acknowledged_and_makes_none_by_half():
    outcomes = await asyncio.gather(killed(25, seed=1), killed(25, seed=2))
    assert [kills for kills, _ in outcomes] == [25, 25]
    assert sum(acknowledged for _, acknowledged in outcomes) >= 50
