import pytest
import torch
from torch import nn

from cortexd.demo.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(2, 8, 24), (1, 24, 8), (3, 16, 16)])
def test_singular_values_are_brought_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.shape == (shape[0], min(shape[1:]))
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_a_gradient_of_nothing_moves_nothing():
    weight = nn.Parameter(torch.eye(4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(weight, torch.eye(4))


def test_weights_decay_towards_zero():
    weight = nn.Parameter(torch.eye(4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight, torch.eye(4) * 0.95)


def test_matrices_of_several_shapes_reach_their_targets():
    torch.manual_seed(0)
    targets = [torch.randn(8, 8), torch.randn(8, 8), torch.randn(4, 16)]
    weights = [nn.Parameter(torch.zeros_like(target)) for target in targets]
    muon = Muon(weights, lr=0.15, weight_decay=0.0)
    errors: list[float] = []
    for _ in range(100):
        loss = torch.stack([(w - t).square().sum() for w, t in zip(weights, targets, strict=True)]).sum()
        muon.zero_grad()
        loss.backward()
        muon.step()
        errors.append(loss.item())
    assert errors[-1] < errors[0] / 20
