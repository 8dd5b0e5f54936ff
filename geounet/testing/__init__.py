"""Generated scenes with labels, and strategies for tests: for the demo, our tests and our users'."""
