"""A map times the gate of another, and two maps blended by it."""
