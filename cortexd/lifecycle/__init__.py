"""How a model comes, stays and goes."""
