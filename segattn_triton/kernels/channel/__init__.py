"""One weight per channel, of a whole image."""
