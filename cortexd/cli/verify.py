"""`cortexd verify`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from cortexd import wire
from cortexd.checkpoints.header import read_header
from cortexd.checkpoints.problem import printable
from cortexd.checkpoints.shape import ModelShape, identify
from cortexd.cli.options import json_option
from cortexd.cli.output import human_bytes, print_json, print_table
from cortexd.errors import UnsupportedCheckpoint

_INSPECTION = "cortexd.rwkv.inspection"
_COMPARED = ("cpu bf16", "cpu fp16", "cpu int8", "cpu int4")  # unless named
_COLUMNS = ("STRATEGY", "WEIGHTS", "KL", "KL 99 %", "SAME TOKEN", "PERPLEXITY")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--quality", is_flag=True, help="Compare smaller numbers with fp32: how far do predictions move?")
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    type=click.Choice([name for name in wire.STRATEGIES if name not in ("auto", "cpu fp32")]),
    help="What to compare; may be repeated.  [default: all that run here]",
)
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A text to compare on.  [default: some prose, code and chat in several languages]",
)
@json_option
def verify(path: Path, quality: bool, strategies: tuple[str, ...], text: Path | None, as_json: bool) -> None:
    """Say what a checkpoint holds and whether all of it is there.

    Every tensor is read and every number looked at. With --quality the model predicts a text token by token, in fp32 and in smaller
    numbers: KL is how far the predictions are apart on the average (nats, 0 is none), SAME TOKEN how often the likeliest token is
    the same.
    """
    shape = identify(read_header(path))
    task: dict[str, Any] = {"path": _name_of(path), "threads": os.cpu_count() or 1}
    if quality or strategies or text is not None:
        task |= {"strategies": strategies or _COMPARED, "lenient": not strategies, "text": _text_of(text)}
    report = _inspect(task)
    if report["problem"]:
        raise UnsupportedCheckpoint(report["problem"])
    if left_out := report["left_out"]:
        click.echo(f"Left out, as the native kernels are not there: {', '.join(left_out)}.", err=True)
    if as_json:
        print_json({"path": str(path), **_facts(shape), "quality": report["quality"]})
        return
    click.echo(f"{path.name}: {_sentence(shape)}; all of it is there.")
    if report["quality"]:
        click.echo()
        print_table(_COLUMNS, [_row(found) for found in report["quality"]])


def _inspect(task: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", _INSPECTION]
    done = subprocess.run(command, input=msgspec.json.encode(task), stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise UnsupportedCheckpoint(f"{Path(task['path']).name} could not be read: the process that did so ended.")
    return msgspec.json.decode(done.stdout)


def _name_of(path: Path) -> str:
    """Where it is, from everywhere."""
    name = str(path.resolve())
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UnsupportedCheckpoint(f"{printable(path.name)} has a path that is not in UTF-8; rename it.") from None
    return name


def _text_of(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} is not a text in UTF-8.", param_hint="--text") from error


def _facts(shape: ModelShape) -> dict[str, Any]:
    named = ("version", "layers", "width", "heads", "vocabulary", "dtype", "parameters", "weight_bytes", "state_bytes")
    return {name: getattr(shape, name) for name in named}


def _sentence(shape: ModelShape) -> str:
    size = f"{shape.layers} layers of {shape.width}, vocabulary {shape.vocabulary}"
    numbers = f"{shape.parameters / 1e6:.1f} million numbers in {shape.dtype}, {human_bytes(shape.weight_bytes)}"
    return f"RWKV-{shape.version}, {size}; {numbers}; {human_bytes(shape.state_bytes)} for each conversation"


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    return (
        found["strategy"],
        human_bytes(found["weight_bytes"]),
        f"{found['kl']:.5f}",
        f"{found['worst_kl']:.5f}",
        f"{found['same_top']:.1%}",
        f"{found['perplexity']:.2f}",
    )
