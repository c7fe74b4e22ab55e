"""Run folders -> one page that says which encoder bought the lower WER with the same cost."""

from asr.report.page import compare

__all__ = ["compare"]
