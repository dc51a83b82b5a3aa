"""How a model computes: ours and others enter by the same door."""
