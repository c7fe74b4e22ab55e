"""Checks of this machine, and what to do about each problem: ``asr doctor``."""
