"""What may be asked for: found, configured, embedded; by name and never by path."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cortexd.catalogue import scan
from cortexd.catalogue.catalogue import Catalogue, Edition
from cortexd.config import Alias, Model, Models, ModelSampling, Settings, settings_from_document
from cortexd.errors import UnknownModel
from tests.checkpoint_files import tiny_state_dict, write_hf, write_pth, write_safetensors

STATE = tiny_state_dict(0, layers=1, heads=1, head_size=16, vocabulary=257)


def catalogue(*directories: Path, embedded: bool = False, models: tuple[Model, ...] = ()) -> Catalogue:
    places = tuple(str(directory) for directory in directories)
    it = Catalogue(Settings(models=Models(directories=places, embedded=embedded), model=models))
    it.refresh()
    return it


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With one checkpoint."""
    write_pth(tmp_path / "goose.pth", STATE)
    return tmp_path


def settings(folder: Path, *models: dict[str, Any]) -> Settings:
    document = {"models": {"directories": [str(folder)], "embedded": False}, "model": models}
    return settings_from_document(document)


def test_checkpoints_of_every_kind_are_found_by_their_names(tmp_path: Path):
    write_pth(tmp_path / "goose-0.1b.pth", STATE)
    write_safetensors(tmp_path / "swan.safetensors", STATE)
    write_hf(tmp_path / "heron", STATE)
    (tmp_path / ".hidden.pth").write_bytes(b"")
    (tmp_path / "half.pth.part").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    specs = catalogue(tmp_path).specs()
    assert [spec.name for spec in specs] == ["goose-0.1b", "heron", "swan"]
    assert {spec.architecture for spec in specs} == {"rwkv7"}
    assert all(spec.problem is None and spec.size > 1000 and spec.created > 0 for spec in specs)


def test_a_damaged_file_is_listed_with_its_problem(tmp_path: Path):
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04 and then nothing")
    (spec,) = catalogue(tmp_path).specs()
    assert "broken.pth is damaged" in (spec.problem or "")


def test_a_directory_that_is_not_there_holds_nothing(tmp_path: Path):
    assert catalogue(tmp_path / "later").specs() == []


def test_the_embedded_model_is_always_there(tmp_path: Path):
    demo = catalogue(tmp_path, embedded=True).resolve("demo")
    assert demo.source == "embedded"
    assert demo.problem is None


def test_of_two_files_with_one_name_the_earlier_directory_wins(tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_pth(tmp_path / folder / "goose.pth", STATE)
    assert catalogue(tmp_path / "b", tmp_path / "a").resolve("goose").path == str(tmp_path / "b" / "goose.pth")


def test_names_and_aliases_are_found_in_any_case(tmp_path: Path):
    write_pth(tmp_path / "Goose.pth", STATE)
    it = catalogue(tmp_path, models=(Model(name="Goose", aliases=("gpt-4o-mini",)),))
    assert it.resolve("goose") == it.resolve("GPT-4o-Mini") == it.resolve("Goose")


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path):
    write_pth(tmp_path / "goose.pth", STATE)
    write_pth(tmp_path / "swan.pth", STATE)
    with pytest.raises(UnknownModel, match=r"'gose'.*goose") as refused:
        catalogue(tmp_path).resolve("gose")
    assert refused.value.param == "model"
    assert "swan" not in refused.value.message


@pytest.mark.parametrize("name", ["../goose", "/etc/passwd", "goose.pth", "", "goose\0", "x" * 10000])
def test_a_name_is_a_key_and_never_a_path(tmp_path: Path, name: str):
    write_pth(tmp_path / "goose.pth", STATE)
    with pytest.raises(UnknownModel) as refused:
        catalogue(tmp_path).resolve(name)
    assert len(refused.value.message) < 400


def test_a_configured_model_may_lie_anywhere_and_says_what_differs(tmp_path: Path):
    write_pth(tmp_path / "weights.pth", STATE)
    model = Model(
        name="goose", path="weights.pth", strategy="cpu bf16", keep_alive=7.0, sampling=ModelSampling(temperature=0.5)
    )
    spec = catalogue(tmp_path, models=(model,)).resolve("goose")
    assert (spec.path, spec.strategy, spec.keep_alive) == (str(tmp_path / "weights.pth"), "cpu bf16", 7.0)
    assert (spec.sampling.temperature, spec.sampling.top_p) == (0.5, 0.3)


def test_a_configured_model_without_its_file_is_listed_with_the_problem(tmp_path: Path):
    spec = catalogue(tmp_path, models=(Model(name="goose", path="gone.pth"),)).resolve("goose")
    assert "gone.pth is not in" in (spec.problem or "")


def test_a_file_put_into_the_directory_is_found_by_the_next_look(tmp_path: Path):
    it = catalogue(tmp_path)
    write_pth(tmp_path / "goose.pth", STATE)
    it.refresh()
    before = it.resolve("goose")
    write_pth(tmp_path / "goose.pth", tiny_state_dict(1, layers=2, heads=1, head_size=16, vocabulary=257))
    os.utime(tmp_path / "goose.pth", ns=(1, 1))
    it.refresh()
    assert it.resolve("goose").hash != before.hash
    (tmp_path / "goose.pth").unlink()
    it.refresh()
    assert it.specs() == []


def test_a_look_at_unchanged_files_reads_no_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_pth(tmp_path / "goose.pth", STATE)
    it = catalogue(tmp_path)
    read: list[Path] = []
    monkeypatch.setattr(scan, "read_header", read.append)
    it.refresh()
    assert read == []


def test_what_can_change_live_is_not_in_the_hash(tmp_path: Path):
    write_pth(tmp_path / "goose.pth", STATE)
    spec = catalogue(tmp_path).resolve("goose")
    assert msgspec.structs.replace(spec, aliases=("x",), keep_alive=1.0).hash == spec.hash
    assert msgspec.structs.replace(spec, strategy="cpu bf16").hash != spec.hash


def test_a_spec_tells_what_a_load_would_have_to_know_of_the_model(tmp_path: Path):
    write_pth(tmp_path / "goose.pth", tiny_state_dict(0, layers=2, heads=3, head_size=16, vocabulary=257))
    spec = catalogue(tmp_path).resolve("goose")
    assert (spec.vocabulary, spec.width, spec.stored) == (257, 48, "F32")
    assert spec.parameters == sum(
        x.numel() for x in tiny_state_dict(0, layers=2, heads=3, head_size=16, vocabulary=257).values()
    )
    assert spec.state_bytes == 4 * 2 * (2 * 48 + 3 * 16 * 16)


def test_an_edition_is_what_the_model_was_within_what_it_may_be_today(folder: Path):
    """Else a client could keep a model for ever, or get around lowered limits, by asking for its past."""
    then = settings(
        folder, {"name": "goose", "keep_alive": -1, "limits": {"max_tokens": 5000}, "sampling": {"top_k": 7}}
    )
    catalogue = Catalogue(settings(folder, {"name": "goose", "keep_alive": "1m", "limits": {"max_tokens": 10}}))
    catalogue.recall(Edition("goose", 1), then)
    catalogue.refresh()
    edition = catalogue.resolve("Goose@1")
    assert (edition.name, edition.keep_alive, edition.limits.max_tokens, edition.sampling.top_k) == (
        "goose@1",
        60,
        10,
        7,
    )


def test_what_is_no_model_any_more_has_no_past(folder: Path):
    then = settings(folder, {"name": "goose"}, {"name": "secret", "path": "goose.pth", "aliases": ["chat"]})
    today = settings(folder, {"name": "goose"})
    today = msgspec.structs.replace(today, alias=(Alias(name="chat", to="goose"),))
    catalogue = Catalogue(today)
    for name in ("secret", "chat", "goose"):
        catalogue.recall(Edition(name, 1), then)
    catalogue.refresh()
    assert [spec.name for spec in catalogue.editions()] == ["goose@1"]
    assert catalogue.is_model("GOOSE")
    assert not catalogue.is_model("chat")
    for name in ("secret@1", "chat@1", "goose@2"):
        with pytest.raises(UnknownModel):
            catalogue.resolve(name)


def test_of_the_editions_that_clients_ask_for_the_last_stay_and_those_of_aliases_always(folder: Path):
    catalogue = Catalogue(settings(folder, {"name": "goose"}))
    catalogue.recall(Edition("goose", 1), catalogue.settings, named=True)
    for version in range(2, 200):
        catalogue.recall(Edition("goose", version), catalogue.settings)
    catalogue.refresh()
    assert len(catalogue.editions()) == 33
    assert {"goose@1", "goose@199"} <= {spec.name for spec in catalogue.editions()}


@pytest.mark.parametrize(
    ("name", "edition"),
    [
        ("goose@17", Edition("goose", 17)),
        ("a@b@3", Edition("a@b", 3)),
        *((name, None) for name in ("goose", "goose@", "@3", "goose@0", "goose@-1", "goose@x", "goose@999999999999")),
    ],
)
def test_an_edition_is_a_model_and_a_version(name: str, edition: Edition | None):
    assert Edition.of(name) == edition
