"""The fused kernels on a GPU: are they right, how fast is the whole model, and what does the memory allow.

`python kernels/benchmarks/fused_model.py --size 1.5B --dtype fp16 --batch 1 8 32 --prompt 1024`

Random weights of an official shape. First every operator is compared with its definition; what computes wrongly is not timed. A
decode is a step and the drawing of a token for each sequence, which is what the next step is fed. The floor is the bytes a step
must move (weights once, of the embedding one row a sequence; states twice), at the speed of reading a gigabyte just before. Tiles
are those that `cortexd warmup` has kept, or the formula's; with `--tune` the fastest for these products are found out first.
`--profile FILE` writes where the time of one step goes.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cortexd.checkpoints.shape import ModelShape
from cortexd.config import default_paths
from cortexd.rwkv.batch import Piece
from cortexd.rwkv.device_drawing import DeviceDrawing
from cortexd.rwkv.drawing import Drawing
from cortexd.rwkv.fused import FusedRwkv7, Station
from cortexd.rwkv.sampling import SamplerState
from cortexd.rwkv.state import Home, StatePool
from cortexd.wire import Sampling
from cortexd_kernels.choices import Choices
from cortexd_kernels.dispatch import operators_for
from cortexd_kernels.operators import Operators

# Layers, width, and the ranks of w, a, v, g.
SIZES = {
    "tiny": (2, 128, (32, 32, 32, 32)),
    "0.1B": (12, 768, (64, 64, 32, 128)),
    "0.4B": (24, 1024, (64, 64, 32, 128)),
    "1.5B": (24, 2048, (96, 96, 64, 256)),
    "2.9B": (32, 2560, (96, 96, 64, 320)),
    "7.2B": (32, 4096, (128, 128, 96, 480)),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
IDLE = 0.82  # of the activations of a trained model's feed-forward layers are zero (0.77 to 0.90)
READ = 2**30  # bytes


def random_weights(size: str, vocabulary: int, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """By the names and in the layout that the engine prepares."""
    layers, width, ranks = SIZES[size]
    ffn = 4 * width

    def matrix(rows: int, columns: int, shift: float = 0.0) -> Tensor:
        return (torch.randn(rows, columns, device=device) / columns**0.5 - shift).to(dtype)

    def vector(*shape: int, scale: float = 0.5) -> Tensor:
        return torch.randn(*shape, device=device) * scale

    ones, zeros = torch.ones(width, device=device), torch.zeros(width, device=device)
    weights = {"emb.weight": matrix(vocabulary, width), "head.weight": matrix(vocabulary, width)}
    for norm in (
        "blocks.0.ln0",
        "ln_out",
        *(f"blocks.{i}.{name}" for i in range(layers) for name in ("ln1", "att.ln_x")),
    ):
        weights |= {f"{norm}.weight": ones, f"{norm}.bias": zeros}
    # The layer norm's bias of one and a little taken off every weight make most activations negative, as training does.
    shift = float(2**0.5 * torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(IDLE))) / width
    for layer, block in enumerate(f"blocks.{i}." for i in range(layers)):
        weights |= {f"{block}ln2.weight": ones, f"{block}ln2.bias": ones}
        weights |= {
            f"{block}att.{name}": vector(width) for name in ("w0", "a0", "k_k", "k_a", *(["v0"] if layer else []))
        }
        weights |= {f"{block}att.mix": torch.rand(6, 1, width, device=device)}
        weights |= {
            f"{block}ffn.x_k": torch.rand(width, device=device),
            f"{block}att.r_k": vector(width // 64, 64, scale=0.1),
        }
        weights |= {
            f"{block}att.{name}.weight": matrix(width, width) for name in ("receptance", "key", "value", "output")
        }
        for kind, rank in zip("wavg", ranks, strict=True):
            if layer or kind != "v":
                weights |= {f"{block}att.{kind}1": matrix(rank, width), f"{block}att.{kind}2": matrix(width, rank)}
        weights[f"{block}ffn.key.weight"] = matrix(ffn, width, shift)
        weights[f"{block}ffn.value.columns"] = matrix(ffn, width)
    return weights


class Bench:
    """A model on a device, and clocks that wait for it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = torch.device(args.device)
        self.dtype, self.states = DTYPES[args.dtype], DTYPES[args.states]
        if self.device.type == "cuda" and not torch.cuda.is_available():
            sys.exit("PyTorch finds no GPU here: `--device cpu --size tiny` tries this script out.")
        operators, problem = operators_for(self.device, self.dtype, default_paths(os.environ).cache)
        if problem:
            sys.exit(f"Nothing is timed: {problem}.")
        self.operators: Operators = operators
        layers, width, _ = SIZES[args.size]
        self.weights = random_weights(args.size, args.vocabulary, self.dtype, self.device)
        self.shape = ModelShape(
            version="7", layers=layers, width=width, heads=width // 64, head_size=64, vocabulary=args.vocabulary,
            ffn_width=4 * width, decay_rank=0, gate_rank=0, a_rank=0, v_rank=0, dtype="F16", parameters=0,
            weight_bytes=0, origins={},
        )  # fmt: skip
        self.model = self.model_of(operators)

    def model_of(self, operators: Operators) -> FusedRwkv7:
        layers = self.shape.layers
        return FusedRwkv7([Station.whole(self.weights, operators, self.device, layers)], layers)

    def tune(self, batches: list[int], prompts: list[int]) -> int:
        """Go on with the fastest tiles for what these steps ask for; how many were chosen."""
        from cortexd_kernels import tuning  # and Triton with it

        asked = tuning.Asked()
        self.model = self.model_of(tuning.operators_of(asked))
        for call in (*map(self.decode, batches), *map(self.prefill, prompts)):
            call()
        found = {it.name: tuning.answer(it, self.device, tuning.measure_on_gpu) for it in asked.questions}
        self.operators = tuning.operators_of(Choices(found))
        self.model = self.model_of(self.operators)
        return len(found)

    def pool(self, slots: int) -> StatePool:
        return StatePool(self.shape, slots, [Home(self.device, self.states)] * self.shape.layers)

    def decode(self, batch: int) -> Callable[[], object]:
        pool = self.pool(batch)
        slots, tokens = [pool.take() for _ in range(batch)], list(range(1, batch + 1))
        states = [SamplerState(Sampling(top_p=0.9, seed=slot)) for slot in slots]
        sample = self.operators.sample
        drawing = Drawing([0], None, None if sample is None else DeviceDrawing(sample, batch, [0], []))

        def step() -> None:
            logits, _ = self.model.step([Piece(slot, [token]) for slot, token in zip(slots, tokens, strict=True)], pool)
            tokens[:] = [token or 0 for token in drawing.draw(logits, states, slots)]

        return step

    def prefill(self, count: int) -> Callable[[], object]:
        pool = self.pool(1)
        slot, ids = pool.take(), torch.randint(self.shape.vocabulary, (count,)).tolist()
        return lambda: self.model.step([Piece(slot, ids)], pool)

    def floor(self, batch: int, bandwidth: float) -> float:
        """Seconds that the bytes of a step take."""
        read = sum(
            tensor.nbytes * ((1 - IDLE**batch) if name.endswith("value.columns") else 1)
            for name, tensor in self.weights.items()
            if name != "emb.weight"
        )
        states = 2 * batch * self.shape.layers * self.shape.width * (64 * self.states.itemsize + 2 * 4)
        return (read + states) / bandwidth

    def seconds(self, call: Callable[[], object], rounds: int) -> float:
        """The median of some, after as many as it takes to record a step."""
        for _ in range(8):
            call()
        taken: list[float] = []
        for _ in range(rounds):
            self.wait()
            begin = time.perf_counter()
            call()
            self.wait()
            taken.append(time.perf_counter() - begin)
        return statistics.median(taken)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def bandwidth(self, rounds: int) -> float:
        """Bytes per second of reading."""
        numbers = torch.ones(READ // 4, device=self.device)
        return READ / self.seconds(partial(torch.sum, numbers), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1.5B")
    parser.add_argument("--dtype", choices=DTYPES, default="fp16")
    parser.add_argument("--states", choices=("fp32", "fp16"), default="fp32")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, nargs="*", default=[128, 1024])
    parser.add_argument("--vocabulary", type=int, default=65536)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--profile", type=Path)
    args = parser.parse_args()
    bench = Bench(args)
    if args.tune:
        print(f"{bench.tune(args.batch, args.prompt)} tiles were chosen")
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "cpu"
    print(f"{args.size} {args.dtype} on {name}, torch {torch.__version__}; every operator is right")
    print("what             median ms     tok/s   floor tok/s   of the floor   GB/s read")
    for batch in args.batch:
        bandwidth = bench.bandwidth(args.rounds)
        taken, least = bench.seconds(bench.decode(batch), args.rounds), bench.floor(batch, bandwidth)
        figures = f"{taken * 1e3:12.3f} {batch / taken:9.0f} {batch / least:13.0f} {least / taken:14.0%}"
        print(f"decode {batch:<6} {figures} {bandwidth / 1e9:11.0f}")
    for count in args.prompt:
        taken = bench.seconds(bench.prefill(count), max(args.rounds // 3, 1))
        print(f"prompt {count:<6} {taken * 1e3:12.3f} {count / taken:9.0f}")
    if args.profile is not None:
        profile(bench, args.batch[0] if args.batch else 1, args.profile)


def profile(bench: Bench, batch: int, path: Path) -> None:
    """A table of kernels by their time in one step."""
    call = bench.decode(batch)
    bench.seconds(call, 1)
    with torch.profiler.profile() as profiler:
        call()
        bench.wait()
    key = "self_cuda_time_total" if bench.device.type == "cuda" else "self_cpu_time_total"
    path.write_text(profiler.key_averages().table(sort_by=key, row_limit=30))
    print(f"where the time of a step goes: {path}")


if __name__ == "__main__":
    main()
