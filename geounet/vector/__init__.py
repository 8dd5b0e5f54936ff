"""From class rasters to a GeoPackage: polygons, buildings, roads and land cover of rasters larger than memory.

Work is done cell by cell on a fixed grid, what touches a cell's edge is handed over through files, and merged exactly:
the result does not depend on the size of the cells, nor on the order in which they are done.
"""
