"""Measuring predictions against labels: pixels, buildings, roads and land cover."""
