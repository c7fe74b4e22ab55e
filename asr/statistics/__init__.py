"""Computes intervals, tests and power for comparisons of error rates."""
