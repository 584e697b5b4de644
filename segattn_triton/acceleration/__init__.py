"""A model that is there gets the kernels: survey, trial, swap, capture."""
