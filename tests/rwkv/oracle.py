"""The official `rwkv` package on CPU in fp32: the judge of logits and states."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

os.environ |= {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}


class Oracle:
    """One sequence through the official model of a `.pth` file with official names."""

    def __init__(self, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package's own
            from rwkv.model import RWKV

            self._model: Any = RWKV(model=str(path.with_suffix("")), strategy="cpu fp32")

    def forward(self, tokens: list[int], state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Logits `[V]` after the last token and the state: att shift, wkv and ffn shift of each layer in turn."""
        with torch.inference_mode():
            logits, state = self._model.forward(tokens, state)
        return logits.clone(), [part.clone() for part in state]
