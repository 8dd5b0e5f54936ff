"""Model bundles, the networks they hold, foreign checkpoints, device and precision."""
