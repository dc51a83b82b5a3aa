"""Configuration files, the directories of models, and the models that are offered."""

from pathlib import Path

from cortexd.catalogue.catalogue import Catalogue
from cortexd.config import Model, Models, Settings
from cortexd.doctor.configuration import configuration, model_directories, models, settings_of
from cortexd.doctor.place import Place
from tests.doctor.made_up import as_nobody, levels, only, place
from tests.memory.trees import write

USUAL = "home/.config/cortexd/cortexd.toml"


def test_without_a_file_the_defaults_are_in_force(tmp_path: Path):
    assert only(configuration(place(tmp_path))).level == "ok"
    assert settings_of(place(tmp_path)).server.port == 11435


def test_each_mistake_in_a_file_is_a_problem_with_its_line(tmp_path: Path):
    write(tmp_path, {USUAL: '[server]\nprot = 1\n[memory]\ncpu = "much"\n'})
    found = list(configuration(place(tmp_path)))
    assert levels(found) == ["problem", "problem"]
    assert found[0].says == f"{tmp_path / USUAL}:2: server.prot is not a setting; did you mean server.port?"
    assert settings_of(place(tmp_path)).server.port == 11435


def test_a_variable_that_is_wrong_is_told_once_and_the_file_stays_valid(tmp_path: Path):
    write(tmp_path, {USUAL: "[server]\nport = 1\n"})
    found = list(configuration(place(tmp_path, CORTEXD_SERVER__PORT="none")))
    assert levels(found) == ["ok", "problem"]
    assert "CORTEXD_SERVER__PORT" in found[1].says


def test_what_is_right_of_the_variables_holds_beside_a_file_that_is_wrong(tmp_path: Path):
    write(tmp_path, {USUAL: "[server]\nprot = 1\n"})
    assert settings_of(place(tmp_path, CORTEXD_SERVER__PORT="8080")).server.port == 8080


def test_a_file_that_was_named_must_be_there(tmp_path: Path):
    where = Place(environment={"HOME": str(tmp_path)}, root=tmp_path, file=tmp_path / "gone.toml")
    assert only(configuration(where)).level == "problem"


def test_the_file_of_the_service_is_looked_at_too(tmp_path: Path):
    write(tmp_path, {"etc/cortexd/cortexd.toml": "[server]\nprot = 1\n"})
    assert levels(configuration(place(tmp_path))) == ["ok", "problem"]


def test_a_home_that_is_closed_is_a_problem_and_no_crash():
    with as_nobody() as folder:
        where = Place(environment={"HOME": str(folder / "locked")}, root=Path("/nowhere"))
        assert "cannot be read (Permission denied)" in only(configuration(where)).says
        assert settings_of(where).server.port == 11435


def directories_of(*directories: Path, usual: Path) -> list[str]:
    settings = Settings(models=Models(directories=tuple(map(str, directories))))
    return levels(model_directories(settings, usual))


def test_a_directory_that_is_missing_is_a_warning_where_somebody_named_it(tmp_path: Path):
    assert directories_of(tmp_path, tmp_path / "gone", usual=tmp_path / "data") == ["ok", "warning"]
    assert directories_of(tmp_path / "data/models", usual=tmp_path / "data") == ["note"]
    (tmp_path / "file").touch()
    assert directories_of(tmp_path / "file", usual=tmp_path) == ["problem"]


def test_a_directory_that_may_not_be_read_is_a_problem():
    with as_nobody() as folder:
        assert directories_of(folder / "locked", folder / "locked/models", usual=folder) == ["problem", "problem"]


def catalogue_of(folder: Path, *configured: Model) -> Catalogue:
    catalogue = Catalogue(Settings(models=Models(directories=(str(folder),)), model=configured))
    catalogue.refresh()
    return catalogue


def test_a_checkpoint_that_cannot_be_opened_is_a_warning_and_a_problem_where_it_is_configured(tmp_path: Path):
    (tmp_path / "lying.pth").write_bytes(b"nothing")
    found = list(models(catalogue_of(tmp_path, Model(name="goose")), [], gpu=False))
    assert [(finding.level, finding.says.partition(":")[0]) for finding in found] == [
        ("ok", "Whole, and there to be asked for"),
        ("problem", "goose cannot be loaded"),
        ("warning", "lying cannot be loaded"),
    ]


def test_a_model_for_a_gpu_that_is_not_there_is_a_warning(tmp_path: Path):
    catalogue = catalogue_of(tmp_path, Model(name="demo", strategy="cuda fp16"))
    assert levels(models(catalogue, [], gpu=False)) == ["ok", "warning"]
    assert levels(models(catalogue, [], gpu=True)) == ["ok"]


def test_what_else_is_wrong_is_a_problem(tmp_path: Path):
    assert levels(models(catalogue_of(tmp_path), ["alias chat: there is no model goose."], gpu=False)) == [
        "ok",
        "problem",
    ]
