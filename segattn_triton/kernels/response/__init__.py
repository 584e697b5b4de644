"""A map scaled by statistics of each of its channels over the pixels."""
