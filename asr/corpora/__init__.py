"""The table of corpora, by the name that ``asr prepare`` takes."""

from asr.corpora.common_voice import CommonVoice
from asr.corpora.corpus import Corpus
from asr.corpora.folder import Folder
from asr.corpora.fsdd import FSDD
from asr.corpora.hub import Hub
from asr.corpora.librispeech import LibriSpeech, MiniLibriSpeech
from asr.corpora.spoken import Spoken

CORPORA: dict[str, type[Corpus]] = {
    "spoken": Spoken,
    "fsdd": FSDD,
    "librispeech": LibriSpeech,
    "mini_librispeech": MiniLibriSpeech,
    "common_voice": CommonVoice,
    "hub": Hub,
    "folder": Folder,
}
