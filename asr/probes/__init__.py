"""Probes and statistics behind a verdict."""
