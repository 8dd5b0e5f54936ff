"""Tiles, blocks and blend weights: pure geometry, knows nothing of files or networks."""
