"""How tokens are drawn, and from what: for every form of drawing, each beside the engine's own."""

import torch

from cortexd.wire import Sampling

SETTINGS = [
    Sampling(temperature=0.0),
    Sampling(temperature=1e-6, top_p=0.3),
    Sampling(),
    Sampling(temperature=0.7, top_p=0.9),
    Sampling(temperature=1.7, top_k=40),
    Sampling(temperature=1.0, top_k=1),
    Sampling(temperature=1.3, top_k=500, top_p=0.95, min_p=0.02),
    Sampling(temperature=2.5, min_p=0.1),
    Sampling(temperature=1.0, top_p=0.0),
    Sampling(temperature=0.6, top_p=0.7, order="rwkv"),
    Sampling(temperature=1.4, top_p=0.995, top_k=900, min_p=1e-4, order="rwkv"),
    Sampling(temperature=0.8, top_k=3, order="rwkv"),
]
LOGITS = {
    "sharp": lambda size: torch.randn(size) * 4,
    "flat": lambda size: torch.randn(size) * 0.01,
    "equal": lambda size: torch.zeros(size),
    "stepped": lambda size: torch.randint(0, 6, (size,)).float(),
    "wide": lambda size: torch.randn(size) * 200,
}
