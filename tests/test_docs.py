"""The README is true."""

import json
import re
import tomllib
from pathlib import Path

from cortexd.api.schema import ChatRequest
from cortexd.config import load_settings
from tests.docs import README, with_help


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_help_in_the_readme_is_that_of_the_program():
    assert with_help(README.read_text()) == README.read_text(), "run `make docs`"


def test_the_configuration_in_the_readme_is_valid(tmp_path: Path):
    example, split = blocks("toml")
    (tmp_path / "split.toml").write_text(split)
    assert load_settings(tmp_path / "split.toml", {"HOME": "/"}, ()).alias[0].weights == {"goose@17": 95, "goose@18": 5}
    file = tmp_path / "cortexd.toml"
    file.write_text(example)
    settings = load_settings(file, {"HOME": "/"}, ())
    assert settings.lifecycle.keep_alive == 300.0
    assert settings.model[0].name == tomllib.loads(example)["model"][0]["name"]


def test_the_curl_of_the_readme_sends_a_valid_request():
    (body,) = [match for block in blocks("sh") for match in re.findall(r"-d '(\{.*\})'", block)]
    assert set(json.loads(body)) <= set(ChatRequest.__struct_fields__)
    assert json.loads(body)["model"] == "demo"


def test_the_python_of_the_readme_compiles():
    for block in blocks("python"):
        compile(block, "README.md", "exec")


def test_every_make_target_of_the_readme_exists():
    targets = re.findall(r"^([a-z]+):", (README.parent / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"make ([a-z]+)", README.read_text()):
        assert target in targets
