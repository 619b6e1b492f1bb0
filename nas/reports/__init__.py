"""Reports: one self-contained page, and the pictures in it."""
