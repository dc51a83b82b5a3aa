"""HTTP: what clients speak."""
