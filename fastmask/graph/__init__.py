"""Graphs of layers: the order of their calls, and runs of a batch through them, forwards and backwards."""
