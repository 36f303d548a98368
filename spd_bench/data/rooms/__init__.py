"""Procedural furnished rooms: layout → camera → ray casting → shading → sensor → cache.

Nothing here imports torch (nor `spd_bench.api`, which does): the rendering processes start in a moment.

World frame: metres, x and y along the walls, z up, the room is [0, X] × [0, Y] × [0, Z].
Camera frame: x right, y down, z forward. Angles are radians, counter-clockwise seen from above.
Letters: N points, H W rows and columns of the image, 3 a world vector or a colour, 2 texture coordinates.
"""
