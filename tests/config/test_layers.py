"""Of two layers, the later one wins: key by key, but arrays as a whole."""

import pytest

from cortexd.config import Settings
from cortexd.config.document import Document
from cortexd.config.layers import Layer
from cortexd.config.reading import Assembly
from cortexd.errors import InvalidConfiguration


class Hours(Document, frozen=True):
    first: int = 0
    last: int = 24

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ValueError("the first hour is after the last")


def test_keys_of_a_later_layer_win_one_by_one():
    below = Layer(document={"server": {"host": "a", "port": 1}}, where=lambda _: "below")
    above = Layer(document={"server": {"port": 2}}, where=lambda _: "above")
    assembly = Assembly(Settings, [below, above])
    server = assembly.built(Settings).server
    assert (server.host, server.port) == ("a", 2)
    assert (assembly.origins["server", "host"], assembly.origins["server", "port"]) == ("below", "above")


def test_models_of_a_later_layer_replace_those_below_whole():
    below = Layer(document={"model": [{"name": "a", "pin": True}, {"name": "b"}]}, where=lambda _: "below")
    above = Layer(document={"model": [{"name": "c"}]}, where=lambda _: "above")
    assembly = Assembly(Settings, [below, above])
    (model,) = assembly.built(Settings).model
    assert (model.name, model.pin) == ("c", False)
    assert assembly.origins["model", 0, "pin"] == "default"


def test_a_layer_without_models_leaves_those_below():
    below = Layer(document={"model": [{"name": "a"}]})
    assembly = Assembly(Settings, [below, Layer(document={"server": {"port": 1}})])
    assert [model.name for model in assembly.built(Settings).model] == ["a"]


def test_what_does_not_go_together_is_refused_after_all_layers_are_laid():
    below, above = Layer(document={"first": 30}), Layer(document={"last": 40})
    assert Assembly(Hours, [below, above]).built(Hours) == Hours(first=30, last=40)
    with pytest.raises(InvalidConfiguration, match=r"^the first hour is after the last\.$"):
        Assembly(Hours, [below]).built(Hours)
