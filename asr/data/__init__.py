"""Prepared corpora to batches."""
