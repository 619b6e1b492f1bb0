"""The radius of each image under an attack. All error curves are computed from these radii."""
