"""A map's rows and columns: what stands for each of them, and the map times a gate of each."""
