"""The command line, and the only place that imports click and rich; one module per command."""
