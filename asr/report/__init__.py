"""Compares run folders on one page that says which encoder has the lower WER at equal cost."""

from asr.report.page import compare

__all__ = ["compare"]
