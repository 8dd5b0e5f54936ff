"""Borders between polygons: simplified, shifted within pixels and rounded, each by itself, without ever crossing.

A border runs between two vertices where three or more meet, or closes on itself. What becomes of it follows from its
own pixels and from where the vertices of the mask's other borders lie, and from nothing else: not from other borders'
results, not from direction, start or cells. The polygons on both sides therefore get the same line, and so does every
cell layout.

Why borders cannot cross, though none knows what has become of another: every vertex ends within `SHIFT` (in both axes)
of the corner of the mask it comes from; call the square of `BOX` around a corner its box, a little larger. Whatever
area a border sweeps when a vertex goes, when its vertices move, or when a corner is rounded, contains no point of a
box of any *other* border's corner, nor of its own corners elsewhere. An edge of another border can only enter such a
triangle with a vertex in it (the other two sides are the border's own, which it does not cross), so it does not; and
when two lines move until they touch, a vertex of one touches an edge of the other, but the vertex is in its box, and
the edge is not. Ends of borders stay where they are.
"""
