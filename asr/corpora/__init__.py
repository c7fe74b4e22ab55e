"""The corpora by name: what ``asr prepare NAME`` reads, and tests are parametrised over."""

from asr.corpora.corpus import Corpus
from asr.corpora.spoken import Spoken

CORPORA: dict[str, type[Corpus]] = {"spoken": Spoken}
