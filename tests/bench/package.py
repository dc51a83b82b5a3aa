"""The official `rwkv` package on the same checkpoint, for a ratio. Run as a program: it prints one JSON object."""

import json
import os
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ |= {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"}
_DECODED = 24
_PROMPT = 512


def main(path: str, strategy: str) -> None:
    import torch
    from rwkv.model import RWKV

    model: Any = RWKV(model=str(Path(path).with_suffix("")), strategy=strategy)
    with torch.inference_mode():
        logits, state = model.forward([1000, 1001], None)
        rates: list[float] = []
        for _ in range(3):
            start = perf_counter()
            for _ in range(_DECODED // 3):
                logits, state = model.forward([int(logits.argmax())], state)
            rates.append(_DECODED / 3 / (perf_counter() - start))
        start = perf_counter()
        model.forward([1000 + i for i in range(_PROMPT)], None)
        prefill = _PROMPT / (perf_counter() - start)
    sys.__stdout__.write("\n" + json.dumps({"decode": max(rates), "prefill": prefill}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
