"""The perf suite: measure against the floor and against what people run today, check, plot."""
