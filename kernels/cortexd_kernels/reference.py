"""The operators of RWKV in plain PyTorch: the definition of each, and the judge of every faster form.

Shapes: T tokens (rows), C width, H heads of N channels, C = H·N; B independent sequences. Recurrent states are `[B, H, N, N]`
with the value dimension first (rows) and the key dimension last. Every function works in the dtype it is given (float64 when it
judges), on any device, under autograd, and touches nothing but its result.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LN_EPS = 1e-5
HEAD_NORM_EPS = 64e-5
_EXP_MINUS_HALF = 0.6065306597126334


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(x − mean) / √(var + 1e-5) · weight + bias over the last dimension."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, LN_EPS)


def head_norm(y: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Tensor:
    """Layer norm of each head by itself, eps 64e-5: y `[T, C]`, weight and bias `[C]`."""
    return F.group_norm(y, heads, weight, bias, HEAD_NORM_EPS)


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)²"""
    return torch.relu(x).square()


def decay(x: Tensor) -> Tensor:
    """w = exp(−e^{−1/2} · σ(x)), hence 0.5453 < w < 1."""
    return torch.exp(-_EXP_MINUS_HALF * torch.sigmoid(x))


def normalise_heads(x: Tensor) -> Tensor:
    """x / max(‖x‖₂, 1e-12) over the last dimension: x `[…, H, N]`."""
    return F.normalize(x, dim=-1, p=2.0, eps=1e-12)


def wkv7_step(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, kappa: Tensor, a: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token of each of B sequences.

        S ← S·diag(w) − (S κ)(κ⊙a)ᵀ + v kᵀ        y = S r

    r, w, k, v, kappa, a `[B, H, N]`, state `[B, H, N, N]` → y `[B, H, N]` and the new state. kappa is the normalised removal
    key κ, a the in-context learning rate.
    """
    batch, heads, n = r.shape
    flat = state.reshape(batch * heads, n, n)
    removed = torch.bmm(flat, kappa.reshape(-1, n, 1))
    columns = torch.cat((v.reshape(-1, n, 1), -removed), dim=2)
    rows = torch.stack((k.reshape(-1, n), (kappa * a).reshape(-1, n)), dim=1)
    new = torch.baddbmm(flat * w.reshape(-1, 1, n), columns, rows)
    y = torch.bmm(new, r.reshape(-1, n, 1))
    return y.reshape(batch, heads, n), new.reshape(state.shape)


def wkv7_recurrent(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, kappa: Tensor, a: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """T tokens of B sequences, one after the other: inputs `[B, T, H, N]` → y `[B, T, H, N]` and the last state."""
    ys: list[Tensor] = []
    for t in range(r.shape[1]):
        y, state = wkv7_step(r[:, t], w[:, t], k[:, t], v[:, t], kappa[:, t], a[:, t], state)
        ys.append(y)
    return torch.stack(ys, dim=1), state


def wkv7_chunked(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, kappa: Tensor, a: Tensor, state: Tensor, chunk: int = 32
) -> tuple[Tensor, Tensor]:
    """`wkv7_recurrent`, with matrix products over chunks of C tokens.

    With G_t = Π_{s≤t} w_s inside a chunk, A = −κ⊙G_{t−1}, B = (κ⊙a)/G, K = k/G, R = r⊙G, L = tril₋(A Bᵀ) and S the state that
    enters the chunk:

        U  = (I − L)⁻¹ (A Sᵀ + tril₋(A Kᵀ) V) = W Sᵀ + Z
        Y  = (R + tril(R Bᵀ) W) Sᵀ + tril(R Bᵀ) Z + tril(R Kᵀ) V
        S' = S (I + Wᵀ B) diag(G_C) + (Vᵀ K + Zᵀ B) diag(G_C)

    W and Z do not depend on S, so only the last line is sequential. w > 0.545 keeps 1/G inside fp32 up to C = 128.
    """
    batch, length, heads, n = r.shape
    pad = -length % chunk
    b = kappa * a
    if pad:  # w = 1 and zeros elsewhere leave the state as it is
        r, k, v, kappa, b = (F.pad(x, (0, 0, 0, 0, 0, pad)) for x in (r, k, v, kappa, b))
        w = F.pad(w, (0, 0, 0, 0, 0, pad), value=1.0)

    def chunks(x: Tensor) -> Tensor:
        return x.reshape(batch, -1, chunk, heads, n).transpose(2, 3)  # [B, chunks, H, C, N]

    r, w, k, v, kappa, b = (chunks(x) for x in (r, w, k, v, kappa, b))
    product = torch.cumprod(w, dim=-2)
    last = product[..., -1:, :]
    a_ = -kappa * (product / w)
    b_ = b / product
    k_ = k / product
    r_ = r * product

    lower = torch.tril(a_ @ b_.mT, diagonal=-1)
    identity = torch.eye(chunk, dtype=r.dtype, device=r.device)
    right = torch.cat((a_, torch.tril(a_ @ k_.mT, diagonal=-1) @ v), dim=-1)
    w_, z = torch.linalg.solve_triangular(identity - lower, right, upper=False, unitriangular=True).split(n, dim=-1)

    step = (torch.eye(n, dtype=r.dtype, device=r.device) + w_.mT @ b_) * last
    added = (v.mT @ k_ + z.mT @ b_) * last
    entering: list[Tensor] = []
    for c in range(step.shape[1]):
        entering.append(state)
        state = state @ step[:, c] + added[:, c]

    mixed = torch.tril(r_ @ b_.mT)
    y = (r_ + mixed @ w_) @ torch.stack(entering, dim=1).mT + mixed @ z + torch.tril(r_ @ k_.mT) @ v
    return y.transpose(2, 3).reshape(batch, length + pad, heads, n)[:, :length], state
