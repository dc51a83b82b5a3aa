"""What the README shows happens as it is printed."""

import asyncio
import os
import re
import sys
from pathlib import Path

from tests.docs import README
from tests.end_to_end.conftest import Start

_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def scripted() -> list[tuple[str, str]]:
    """Commands and what they print."""
    block = README.read_text().partition("<!-- run -->\n```console\n")[2].partition("```\n<!-- end of run -->")[0]
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [(command, printed) for command, _, printed in (part.partition("\n") for part in parts)]


async def test_change_it_break_it_take_it_back(start: Start, tmp_path: Path):
    commands = scripted()
    assert len(commands) > 8
    async with start(tmp_path) as daemon:
        assert (await daemon.chat("What is cortexd?")).status_code == 200
        (tmp_path / "cortexd").write_text(f'#!/bin/sh\nexec {sys.executable} -m cortexd "$@"\n')
        (tmp_path / "cortexd").chmod(0o755)
        environment = {
            **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CORTEXD_HOST": daemon.url, "USER": "ada", "LOGNAME": "ada",
        }  # fmt: skip
        for command, printed in commands:
            here = command.replace("http://127.0.0.1:11435", daemon.url)
            process = await asyncio.create_subprocess_shell(
                here, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            output, _ = await process.communicate()
            assert _plain(output.decode()) == _plain(printed), command


def _plain(text: str) -> list[str]:
    """Without moments, and without the space around what is printed."""
    return [_TIME.sub("then", line).rstrip() for line in text.strip().splitlines()]
