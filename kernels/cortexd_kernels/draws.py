"""How tokens are drawn on a device: what the kernels that do so take and give."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Draw(NamedTuple):
    """How one row is drawn; what is added to its logits is kept on the device, in row `slot` of tables.

    `uniform` in (0, 1) decides. A row whose `slot` is -1 is masked.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_decay: float = 1.0
    # top_p, top_k and min_p at temperature 1, then temperature; else temperature, top_k, top_p, min_p
    rwkv_order: bool = False
    uniform: float = 0.5
    slot: int = 0
    biased: bool = False


class Sample(Protocol):
    def __call__(
        self,
        logits: Tensor,
        draws: Tensor,
        counts: Tensor | None = None,
        bias: Tensor | None = None,
        banned: Tensor | None = None,
        uncounted: Tensor | None = None,
    ) -> Tensor:
        """One token for each row of `logits` `[B, V]` fp32 or fp16, as `draws` (`packed`) says: int32 `[B]`.

        -1 where a row is masked, or holds no finite logit that is allowed. counts fp32 `[slots, V]`: how often each token has
        occurred, decayed, or -1 where it has not; changed in place for rows with penalties. bias fp32 `[slots, V]` is added where
        `biased`. banned, uncounted bool `[V]`: tokens never drawn, and tokens whose occurrence counts 0 in RWKV's order.
        """
        ...


def packed(draws: Sequence[Draw], device: torch.device | str) -> Tensor:
    """What `Sample` takes, in one copy to the device: fp64 `[B, 11]`, which holds every field exactly."""
    return torch.tensor(draws, dtype=torch.float64).to(device, non_blocking=True)
