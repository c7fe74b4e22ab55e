"""The table of searches, over any decoder."""

from asr.search.hypothesis import Hypothesis, Rules
from asr.search.search import SEARCHES, Beam, Greedy, Search

__all__ = ["SEARCHES", "Beam", "Greedy", "Hypothesis", "Rules", "Search"]
