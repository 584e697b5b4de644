"""Fifteen minutes with a GPU: all that is worth measuring in one prepared script, the most valuable first."""
