"""Intervals, tests and power for comparisons of error rates."""
