"""Scenes and rasters: opening and checking files, validity, resampling, parts, COGs and their sidecars."""
