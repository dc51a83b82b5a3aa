"""What a model says wins over what is said for all, key by key."""

from typing import Any

import msgspec
import pytest

from cortexd.catalogue.spec import Limits as SpecLimits
from cortexd.catalogue.spec import ModelSpec, SamplingDefaults
from cortexd.config import Limits, Model, Sampling, Settings, effective, settings_from_document
from cortexd.config.keys import keys


def effective_of(model: dict[str, Any], **sections: Any) -> Model:
    settings = settings_from_document({"model": [{"name": "goose", **model}], **sections})
    return effective(settings.model[0], settings)


GENERAL: dict[str, Any] = {
    "lifecycle": {"keep_alive": "1h"},
    "engine": {"strategy": "cpu bf16", "max_concurrency": 8, "threads": 4},
    "sampling": {"temperature": 0.5, "top_k": 40, "max_tokens": 50},
    "limits": {"prompt_tokens": 1000, "max_tokens": 100},
}


@pytest.mark.parametrize(
    ("own", "path", "inherited", "overridden"),
    [
        ({"keep_alive": "-1"}, "keep_alive", 3600.0, -1.0),
        ({"keep_alive": 0}, "keep_alive", 3600.0, 0.0),
        ({"strategy": "auto"}, "strategy", "cpu bf16", "auto"),
        ({"max_concurrency": 1}, "max_concurrency", 8, 1),
        ({"threads": 1}, "threads", 4, 1),
        ({"sampling": {"temperature": 0}}, "sampling.temperature", 0.5, 0.0),
        ({"sampling": {"top_k": 0}}, "sampling.top_k", 40, 0),
        ({"sampling": {"max_tokens": 5}}, "sampling.max_tokens", 50, 5),
        ({"limits": {"prompt_tokens": 2000}}, "limits.prompt_tokens", 1000, 2000),
        ({"limits": {"max_tokens": 1}}, "limits.max_tokens", 100, 1),
    ],
)
def test_a_model_overrides_what_it_would_inherit(own: dict[str, Any], path: str, inherited: Any, overridden: Any):
    def at(model: Any) -> Any:
        for name in path.split("."):
            model = getattr(model, name)
        return model

    assert at(effective_of({}, **GENERAL)) == inherited
    assert at(effective_of(own, **GENERAL)) == overridden


def test_overriding_one_key_of_a_section_leaves_the_others():
    sampling = effective_of({"sampling": {"top_k": 1}}, **GENERAL).sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 1, 0.3)


def test_an_effective_model_leaves_nothing_of_it_open():
    model = effective(Model(name="goose"), Settings())
    assert model == effective(model, Settings(sampling=Sampling(temperature=0.1)))
    open_still = [key.path for key in keys(Model) if _at(model, key.path) is None]
    assert open_still == [("path",), ("template",), ("state",)]  # which are nowhere said for all


def test_sections_for_all_agree_with_what_a_specification_has_by_default():
    assert msgspec.structs.asdict(Sampling()) == msgspec.structs.asdict(SamplingDefaults())
    assert msgspec.structs.asdict(Limits()) == msgspec.structs.asdict(SpecLimits())


def test_what_is_declared_to_need_another_load_is_what_makes_another_process():
    spec = ModelSpec(name="goose", source="file", path="/goose.pth")
    other: dict[type, Any] = {str: "other", int: 7, float: 7.0, bool: True, tuple: ("other",), type(None): 7.0}
    for key in keys(Model):
        if key.path == ("name",):
            continue  # is part of it only where there is no file
        inner = getattr(spec, key.path[0]) if len(key.path) == 2 else spec
        value = getattr(inner, key.path[-1])
        new = other[type(value)] if type(value) is not bool else not value
        changed = msgspec.structs.replace(inner, **{key.path[-1]: new})
        if inner is not spec:
            changed = msgspec.structs.replace(spec, **{key.path[0]: changed})
        assert (changed.hash != spec.hash) == (key.member.restart == "model"), key.name


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = getattr(value, name)
    return value
