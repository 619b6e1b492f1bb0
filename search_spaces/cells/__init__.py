"""Cell-based search spaces: topologies, custom operations, canonical forms and network skeletons."""
