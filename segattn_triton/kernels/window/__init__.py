"""Attention over windows along one, two or three axes, each with a size, a dilation and a direction of its own."""
