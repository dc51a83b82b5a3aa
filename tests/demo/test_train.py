import pytest
import torch
from safetensors import safe_open

from cortexd.demo.augment import UNASKED, render
from cortexd.demo.evaluate import from_file
from cortexd.demo.model import Model
from cortexd.demo.train import Lesson, pad, rate, save, train

BATCH = [
    render([("Hello", "Hi!", 0)]),
    render([("What is cortexd?", "A daemon.", 1), ("Thanks", "You are welcome.", 2)]),
]


def trained(seed: int, steps: int = 2) -> tuple[list[float], Model]:
    torch.manual_seed(seed)
    lesson = Lesson(Model(layers=2, width=64), answers=3)
    losses: list[float] = []
    train(lesson, iter([BATCH] * steps), steps, lambda _step, loss, guide: losses.append(loss + guide))
    return losses, lesson.model


def test_two_steps_lower_the_loss():
    losses, _ = trained(seed=1)
    assert losses[1] < losses[0]


def test_training_is_reproducible_from_the_seed():
    (losses, model), (again, same), (others, _) = trained(seed=1), trained(seed=1), trained(seed=2)
    assert losses == again != others
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), same.parameters(), strict=True))


def test_padding_weighs_nothing():
    batch = pad(BATCH)
    short = len(BATCH[0].tokens)
    assert {tensor.shape for tensor in batch} == {(2, len(BATCH[1].tokens))}
    assert not batch.weights[0, short:].any()
    assert (batch.meanings[0, short:] == UNASKED).all()
    assert batch.weights[1].all()


def test_the_learning_rate_warms_up_and_then_falls():
    rates = [rate(step, 1000) for step in range(1000)]
    top = rates.index(max(rates))
    assert rates[0] < 0.05
    assert max(rates) > 0.99
    assert sorted(rates[:top]) == rates[:top]
    assert sorted(rates[top:], reverse=True) == rates[top:]
    assert rates[-1] == pytest.approx(0.02, abs=1e-3)


def test_a_saved_model_says_what_it_is_and_reads_back(tmp_path):
    _, model = trained(seed=1)
    file = tmp_path / "small.safetensors"
    save(model, file, {"steps": "2"})
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["tokenizer"] == "byte"
        assert opened.metadata()["steps"] == "2"
    back = from_file(file)
    tokens = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(back(tokens)[0], model(tokens)[0], atol=0.05, rtol=0.05)
    assert [f.name for f in tmp_path.iterdir()] == ["small.safetensors"]


def test_tokens_one_by_one_give_the_logits_of_the_whole_text():
    torch.manual_seed(0)
    model = Model(layers=2, width=64)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tokens = torch.randint(1, 257, (2, 40))
    whole, last = model(tokens)
    states = None
    for at in range(tokens.shape[1]):
        logits, states = model(tokens[:, at : at + 1], states)
        torch.testing.assert_close(logits[:, 0], whole[:, at], atol=1e-4, rtol=1e-3)
    for one, other in zip(states, last, strict=True):
        for left, right in zip(one, other, strict=True):
            torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-3)
