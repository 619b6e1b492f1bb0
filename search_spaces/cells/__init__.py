"""Cell spaces: topologies, operations, canonical form, and the network around the cells."""
