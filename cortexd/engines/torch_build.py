"""What the installed PyTorch was built for, without importing it."""

import ast
import functools
from importlib.util import find_spec
from pathlib import Path


@functools.cache
def computes_on_gpus() -> bool:
    """Whether it is a build for CUDA or ROCm."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    said = constants_of(Path(spec.origin).with_name("version.py"))
    return bool(said.get("cuda") or said.get("hip"))


def constants_of(module: Path) -> dict[str, str]:
    """The texts that a module gives names to; none where it cannot be read."""
    try:
        body = ast.parse(module.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError):
        return {}
    found: dict[str, str] = {}
    for line in body:
        match line:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                found[name] = text
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str(text))):
                found[name] = text
            case _:
                pass
    return found
