"""Regular outlines of buildings: straight edges at right angles where the raster's staircase says so.

Raw outlines follow the sides of pixels. Each ring is divided into the edges that explain it best for the fewest
corners (`divide`), in the direction of its building (`direction`); lines are placed on the pixel sides by least squares
and intersected (`lines`), walls between touching buildings are one line for both (`walls`), round ones become ellipses
(`ellipse`). What does not pass the `gate` is simplified or stays raw. `regular` puts it together, `clear` takes care
that neighbours do not overlap.

Coordinates are pixels in which both axes are equally long on the ground. Everything is a function of a group of
touching raw outlines alone: sums are of integers, or run over one ring in its own order.
"""
