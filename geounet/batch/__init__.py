"""Many scenes: where they come from, what is already done, locks."""
