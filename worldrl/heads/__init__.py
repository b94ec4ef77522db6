"""Heads: what do I do in this state? One paper, one file."""
