"""Exact methods on small Markov decision processes."""
