"""The operators in few programs: the interpreter takes its time for each, however little that does."""

from cortexd_kernels.choices import Choices, Product, Split, Tile, Vector
from cortexd_kernels.fused import FusedOperators
from cortexd_kernels.operators import UNIT


class Broad(Choices):
    """Tiles as large as can be."""

    def vector(self, product: Product) -> Vector:
        return super().vector(product)._replace(rows=UNIT, depth=128)

    def tile(self, product: Product, count: int) -> Tile:
        return super().tile(product, count)._replace(tokens=64, rows=128, depth=64)

    def split(self, product: Product, count: int) -> Split:
        return super().split(product, count)._replace(columns=64, depth=128, programs=1)


def fused() -> FusedOperators:
    return FusedOperators(Broad())
