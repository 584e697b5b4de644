"""One weight per value, from its 3x3 neighbours in its own channel."""
