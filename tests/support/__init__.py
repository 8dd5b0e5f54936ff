"""What several tests need: small scenes, small models, a pool in this process."""
