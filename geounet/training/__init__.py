"""Learning models: the networks that come with the package, and the users' own."""
