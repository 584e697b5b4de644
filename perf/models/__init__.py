"""Whole models: what they gain, in time, memory and training."""
