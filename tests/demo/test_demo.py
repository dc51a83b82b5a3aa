import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from cortexd.demo import path
from cortexd.demo.corpus import load
from cortexd.demo.evaluate import answers, complete, from_file, near, share_answered
from cortexd.demo.model import LAYERS, WIDTH, Model

CORPUS = load()
TRAINED_SHARE, HELD_OUT_SHARE = 0.8, 0.6  # somewhat below the card, as they are sampled here


@pytest.fixture(scope="module")
def demo() -> Model:
    return from_file(path())


def test_the_path_is_known_without_torch():
    code = "import sys, cortexd.demo; print(cortexd.demo.path().name, 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["demo.safetensors", "False"]


def test_the_shipped_file_is_small():
    assert path().stat().st_size < 8_000_000


def test_the_shipped_file_has_the_official_names_and_shapes():
    with safe_open(path(), "pt") as file:
        shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        dtypes = {file.get_slice(name).get_dtype() for name in shapes}
    assert shapes == {name: list(tensor.shape) for name, tensor in Model(LAYERS, WIDTH).state_dict().items()}
    assert shapes["emb.weight"] == shapes["head.weight"] == [257, 192]
    assert shapes["blocks.0.att.x_r"] == shapes["blocks.0.att.k_k"] == [1, 1, 192]
    assert shapes["blocks.3.att.r_k"] == [3, 64]
    assert shapes["blocks.1.att.v1"] == [192, 16]
    assert shapes["blocks.2.ffn.key.weight"] == [768, 192]
    assert {"blocks.0.ln0.weight", "blocks.0.ln0.bias", "ln_out.weight"} < set(shapes)
    assert not {"blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2", "blocks.1.ln0.weight"} & set(shapes)
    assert dtypes == {"BF16"}


def test_the_shipped_file_says_how_to_read_it():
    with safe_open(path(), "pt") as file:
        metadata = file.metadata()
    assert metadata["tokenizer"] == "byte"
    assert metadata["vocabulary"] == "257"


def test_it_says_what_cortexd_is(demo):
    for said in answers(demo, ["What is cortexd?", "what is cortexd", "Tell me about cortexd"]):
        assert said.startswith("cortexd is a daemon that serves language models.")


def test_it_answers_how_to_roll_back_and_where_it_listens(demo):
    rollback, port = answers(demo, ["How do I roll back?", "what port does it use?"])
    assert rollback.startswith("Run cortexd config rollback with the number of a version.")
    assert "11435" in port


def test_it_answers_trained_questions_as_often_as_the_card_says(demo):
    assert share_answered(demo, CORPUS.trained[::80]) >= TRAINED_SHARE


def test_it_answers_held_out_questions_as_often_as_the_card_says(demo):
    assert share_answered(demo, CORPUS.held_out[::5]) >= HELD_OUT_SHARE


def test_it_says_politely_what_lies_beyond_it(demo):
    (said,) = answers(demo, ["What is the capital of France?"])
    assert said.startswith("That is beyond me.")


def test_it_answers_the_last_question_of_a_conversation(demo):
    first = "User: Hello\n\nAssistant: Hello! I am the demo model of cortexd. Ask me what cortexd is, or how to use it."
    (said,) = complete(demo, [f"System: Answer briefly.\n\n{first}\n\nUser: What is a lease?\n\nAssistant:"])
    assert said == " A lease is a promise not to unload a model. Each request holds one while it is answered."


def test_an_answer_counts_as_near_only_if_little_of_it_differs():
    assert near("A lease is a promise.", "A lease is a promise!")
    assert not near("A lease is a promise.", "A pin is for ever.")


def test_a_model_that_never_ends_is_cut_off():
    torch.manual_seed(0)
    (said,) = complete(Model(layers=1, width=64), ["User: x\n\nAssistant:"])
    assert len(said.encode()) >= 1
