"""Building blocks: networks, optimiser, precision."""
