"""What a step of decoding cannot be faster than: the bytes it must read and write, by what the memory gives in the same round."""

from tests.bench.shapes import LOW_RANKS, Shape

# Of the activations of a feed-forward layer are not zero: with random weights the half of them, in trained models 10 to 23 %.
ACTIVE = 0.5

_NUMBER = {"bf16": 2.0, "int8": 1.0, "int4": 17 / 32}  # bytes, with the scales of int4's groups
_VECTORS = 19  # fp32 vectors of the model's width in a layer: norms, interpolations, biases
_FP32 = 4


def step_bytes(shape: Shape, kind: str, streams: int) -> float:
    """Of one token for each of `streams`, weights in `kind`, bf16, int8 or int4: every weight once, and every state twice.

    Not the embedding, of which a token needs one row; of `ffn.value` the rows that meet an activation other than zero in one of
    the streams, taken as independent: 1 − (1 − ACTIVE)^streams of them. Integers have a scale for each row and bf16 low ranks,
    and int4 an int8 head.
    """
    width = shape.width
    scale = 0 if kind == "bf16" else _FP32
    row = _NUMBER[kind] * width + scale  # of a matrix with as many columns
    head = shape.vocabulary * (_NUMBER["int8" if kind == "int4" else kind] * width + scale)
    read = 1 - (1 - ACTIVE) ** streams
    square, key, value = 4 * width * row, 4 * width * row, 4 * width * row * read
    low_ranks = 2 * 2 * width * sum(LOW_RANKS)
    layer = square + key + value + low_ranks + _VECTORS * _FP32 * width
    state = _FP32 * width * (64 + 2)  # of a layer: heads of 64 × 64, and the two tokens before
    return head + shape.layers * (layer + 2 * state * streams)


def floor_rate(shape: Shape, kind: str, streams: int, bandwidth: float) -> float:
    """Tokens per second of all streams together at `bandwidth` bytes per second."""
    return streams * bandwidth / step_bytes(shape, kind, streams)
