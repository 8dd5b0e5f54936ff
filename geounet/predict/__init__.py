"""One block: read, infer, blend; sealing borders; back to the scene's grid. Knows nothing of the cluster."""
