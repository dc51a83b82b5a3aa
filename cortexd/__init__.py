"""cortexd: models that are there when they are asked for."""

__version__ = "0.1.0"
