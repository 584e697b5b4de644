"""A full 3x3 convolution in a gate."""
