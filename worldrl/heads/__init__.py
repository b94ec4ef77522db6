"""Heads: what do I do in it? One paper, one file."""
