"""Measurements: speed against other programs, seams, precision, memory. `python -m benchmarks NAME`."""
