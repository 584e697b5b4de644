"""One weight per pixel, of all its channels."""
