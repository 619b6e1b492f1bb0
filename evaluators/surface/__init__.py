"""Response surfaces: class, margin and confidence of a network in planes and along lines through an image."""

from evaluators.surface.directions import adversarial_direction, random_direction
from evaluators.surface.lines import BoundaryLine, Crossing, Segment, boundary_line
from evaluators.surface.planes import Plane, Surface, plane_along, plane_through, response_surface, window

__all__ = [
    "BoundaryLine",
    "Crossing",
    "Plane",
    "Segment",
    "Surface",
    "adversarial_direction",
    "boundary_line",
    "plane_along",
    "plane_through",
    "random_direction",
    "response_surface",
    "window",
]
