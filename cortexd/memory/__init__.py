"""How much memory there is, and who uses it."""
