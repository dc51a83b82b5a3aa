"""Equal settings have equal bytes, and the bytes give the settings again."""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings

from cortexd.config import Lifecycle, Settings, canonical, content_hash, load_settings, settings_from_document
from cortexd.config.listing import listing
from cortexd.config.reading import Reading
from cortexd.errors import InvalidConfiguration
from tests.config.settings_strategy import settings


@given(settings())
def test_settings_survive_their_canonical_form(made_up: Settings):
    body = canonical(made_up)
    again = settings_from_document(json.loads(body))
    assert again == made_up
    assert canonical(again) == body


@given(settings(), settings())
def test_bytes_and_hashes_are_equal_exactly_where_settings_are(one: Settings, other: Settings):
    assert (canonical(one) == canonical(other)) == (one == other) == (content_hash(one) == content_hash(other))


@hypothesis_settings(max_examples=50)
@given(settings())
def test_the_listing_read_as_a_file_gives_the_same_settings(made_up: Settings):
    with TemporaryDirectory() as directory:
        file = Path(directory) / "cortexd.toml"
        file.write_text(listing(Reading(made_up, {})), encoding="utf-8", newline="")
        read = load_settings(file, {}, ())
    # Empty directories stand for the usual one.
    directories = made_up.models.directories or read.models.directories
    assert read == msgspec.structs.replace(
        made_up, models=msgspec.structs.replace(made_up.models, directories=directories)
    )


def test_keys_are_sorted_and_defaults_are_there():
    document = json.loads(canonical(Settings()))
    assert list(document) == sorted(document)
    assert list(document["server"]) == sorted(document["server"])
    assert document["lifecycle"]["keep_alive"] == 300.0


def test_a_duration_written_otherwise_is_no_other_content():
    written = settings_from_document({"lifecycle": {"keep_alive": "1h", "linger": -0.0}})
    assert content_hash(written) == content_hash(Settings(lifecycle=Lifecycle(keep_alive=3600.0, linger=0.0)))
    assert re.fullmatch("[0-9a-f]{64}", content_hash(written))


def test_an_old_document_without_a_key_gets_its_default():
    document = json.loads(canonical(Settings()))
    del document["server"]["port"]
    assert settings_from_document(document) == Settings()


def test_a_document_that_is_not_valid_is_refused_by_the_names_of_its_keys():
    with pytest.raises(InvalidConfiguration) as refused:
        settings_from_document({"server": {"port": -1}, "model": [{"name": "a"}, {"name": "A", "limits": 3}]})
    assert refused.value.message.splitlines() == [
        "server.port: -1 is not an integer from 0 to 65535.",
        "model[1].limits: 3 is not a table.",
        "model[1].name: the name 'A' is used twice, by the model 'A' here and by the model 'a' at model[0].name.",
    ]
