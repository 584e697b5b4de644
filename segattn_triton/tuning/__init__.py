"""Which block sizes a kernel runs with: the model, the choice, the tables."""
