"""Choosing victims, judged: traces replayed under a virtual clock, beside LRU and the clairvoyant optimum."""
