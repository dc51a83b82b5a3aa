"""Decode of the native kernels beside the memory's bandwidth and PyTorch, all in turns within one run: only their ratios count.

`python kernels/benchmarks/native_decode.py --size 0.1B --batch 1 4 8 --formats fp32 bf16 int8`
"""

import argparse
import statistics
import time
from collections.abc import Callable
from ctypes import c_int64, c_void_p
from typing import NamedTuple

import torch
from torch import Tensor

from cortexd.checkpoints.shape import ModelShape
from cortexd.rwkv.batch import Batch, Piece
from cortexd.rwkv.state import StatePool
from cortexd.rwkv.v7 import Rwkv7
from cortexd_kernels.native.layout import FORMATS, native_layout
from cortexd_kernels.native.library import open_native
from cortexd_kernels.native.model import NativeModel
from cortexd_kernels.native.threads import Threads

SIZES = {"0.1B": (12, 768), "0.4B": (24, 1024)}
VOCABULARY = 65536
RANKS = {"w": 64, "a": 64, "v": 32, "g": 128}
IDLE = 0.82  # of the activations of a trained model's feed-forward layers are zero (0.77 to 0.90)
READ = 2**28  # bytes, more than any cache


class Timed(NamedTuple):
    """`reads` are the seconds that reading READ bytes took right after each of `seconds`."""

    name: str
    batch: int
    call: Callable[[], object]
    bytes: int
    seconds: list[float]
    reads: list[float]


def random_weights(layers: int, width: int) -> dict[str, Tensor]:
    """By the names that the engine prepares, in fp32; all values exact in bf16."""

    def matrix(rows: int, columns: int) -> Tensor:
        return (torch.randn(rows, columns) / columns**0.5).bfloat16().float()

    ffn = 4 * width
    weights = {"emb.weight": matrix(VOCABULARY, width) * 28, "head.weight": matrix(VOCABULARY, width)}
    for norm in ("blocks.0.ln0", "ln_out"):
        weights |= {f"{norm}.weight": torch.ones(width), f"{norm}.bias": torch.zeros(width)}
    # The layer norm's bias of one and a little taken off every weight make most activations negative, as training does.
    threshold = 2**0.5 * torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(IDLE))
    for block in (f"blocks.{i}." for i in range(layers)):
        weights |= {f"{block}{name}.weight": torch.ones(width) for name in ("ln1", "ln2", "att.ln_x")}
        weights |= {f"{block}{name}.bias": torch.zeros(width) for name in ("ln1", "att.ln_x")}
        weights[f"{block}ln2.bias"] = torch.ones(width)
        weights |= {f"{block}att.{name}": torch.randn(width) * 0.5 for name in ("w0", "a0", "v0", "k_k", "k_a")}
        weights |= {f"{block}att.mix": torch.rand(6, 1, width), f"{block}ffn.x_k": torch.rand(width)}
        weights[f"{block}att.r_k"] = torch.randn(width // 64, 64) * 0.1
        for name in ("receptance", "key", "value", "output"):
            weights[f"{block}att.{name}.weight"] = matrix(width, width)
        for kind, rank in RANKS.items():
            weights |= {f"{block}att.{kind}1": matrix(rank, width), f"{block}att.{kind}2": matrix(width, rank)}
        weights[f"{block}ffn.key.weight"] = (matrix(ffn, width) - threshold / width).bfloat16().float()
        weights[f"{block}ffn.value.weight"] = matrix(width, ffn) * 0.3
    for name in [name for name in weights if name.startswith("blocks.0.att.v") and "value" not in name]:
        del weights[name]
    return weights


def states(layers: int, width: int, slots: int) -> tuple[Tensor, Tensor, Tensor]:
    shift = torch.zeros(layers, slots, width)
    return shift, shift.clone(), torch.zeros(layers, slots, width // 64, 64, 64)


def bytes_of_a_step(layout: dict[str, Tensor], batch: int, layers: int, width: int) -> int:
    """Weights once, of ffn.value the rows that some sequence needs, of the embedding nothing; states read and written."""
    total = 8 * batch * layers * width * (64 + 2)
    for name, tensor in layout.items():
        if not name.startswith("emb."):
            total += int(tensor.nbytes * (1 - IDLE**batch if ".columns" in name else 1))
    return total


def torch_model(
    weights: dict[str, Tensor], dtype: torch.dtype, layers: int, width: int
) -> Callable[[int], Callable[[], object]]:
    converted = dict(native_layout(weights.items(), dtype))
    shape = ModelShape(
        version="7", layers=layers, width=width, heads=width // 64, head_size=64, vocabulary=VOCABULARY,
        ffn_width=4 * width, decay_rank=64, gate_rank=128, a_rank=64, v_rank=32, dtype="F32", parameters=0,
        weight_bytes=0, origins={},
    )  # fmt: skip
    model = Rwkv7(converted, shape)

    def of_batch(batch: int) -> Callable[[], object]:
        pool = StatePool(shape, batch)
        pieces = [Piece(pool.take(), [7 * i + 5]) for i in range(batch)]

        def call() -> object:
            with torch.inference_mode():
                return model.forward(Batch(pieces), pool)

        return call

    return of_batch


def measure(all_timed: list[Timed], rounds: int, read: Callable[[], object]) -> None:
    for _ in range(rounds):
        for timed in all_timed:
            timed.call()  # others' threads spin for a while
            timed.seconds.append(seconds(timed.call))
            timed.reads.append(seconds(read))


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="0.1B")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--torch", nargs="*", choices=["fp32", "bf16"], default=["fp32"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    native = open_native()
    print(native.description)
    layers, width = SIZES[args.size]
    weights = random_weights(layers, width)
    threads = Threads(native, args.threads)
    buffer = torch.ones(READ // 4)
    timed: list[Timed] = []
    for name in args.formats:
        layout = dict(native_layout(weights.items(), FORMATS[name]))
        model = NativeModel(layout, threads)
        for batch in args.batch:
            held = states(layers, width, batch)
            pieces = [(slot, [7 * slot + 5]) for slot in range(batch)]
            call = lambda model=model, pieces=pieces, held=held: model.step(pieces, held)  # noqa: E731 - one line of a table
            timed.append(Timed(f"native {name}", batch, call, bytes_of_a_step(layout, batch, layers, width), [], []))
    for name in args.torch:
        of_batch = torch_model(weights, {"fp32": torch.float32, "bf16": torch.bfloat16}[name], layers, width)
        timed += [Timed(f"torch {name}", batch, of_batch(batch), 0, [], []) for batch in args.batch]
    measure(timed, args.rounds, lambda: threads.call("cortexd_read", c_void_p(buffer.data_ptr()), c_int64(READ)))
    report(timed, f"{args.size}, {args.threads} threads")


def report(all_timed: list[Timed], what: str) -> None:
    reads = [one for timed in all_timed for one in timed.reads]
    print(f"{what}; memory read {READ / statistics.median(reads) / 1e9:.1f} GB/s (best {READ / min(reads) / 1e9:.1f})")
    print("what              batch  median ms   best ms    tok/s  of the floor: median  of the best two")
    for one in all_timed:
        median, best = statistics.median(one.seconds), min(one.seconds)
        line = f"{one.name:16} {one.batch:6} {median * 1e3:10.2f} {best * 1e3:9.2f} {one.batch / median:8.0f}"
        if one.bytes:
            shares = [one.bytes / READ * read / took for took, read in zip(one.seconds, one.reads, strict=True)]
            line += f"{statistics.median(shares):22.0%} {one.bytes / READ * min(reads) / best:17.0%}"
        print(line)


if __name__ == "__main__":
    main()
