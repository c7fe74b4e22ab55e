"""What works on this machine, and what to do about the rest: ``asr doctor``."""

from asr.doctor.checks import examine
from asr.doctor.finding import Finding

__all__ = ["Finding", "examine"]
