"""`make bench`: how fast the real program is, beside the machine it runs on and the official package, in one run."""
