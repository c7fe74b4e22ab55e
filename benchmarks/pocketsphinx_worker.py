"""Recognises audio with PocketSphinx for ``benchmarks.against_pocketsphinx``.

The benchmark runs this file with the Python of PocketSphinx's own environment, so the file imports
nothing of asr. The first line of its output describes the decoder. Then each utterance of the input
(its number of samples as 4 bytes, least significant first, and 16-bit samples) gets a line with
the text and the CPU seconds of its recognition. Lines are JSON.
"""

import json
import sys
import time
from importlib.metadata import version


def main() -> None:
    """Answers until the input ends."""
    from pocketsphinx import Decoder

    began = time.process_time()
    decoder = Decoder()  # the English model of the wheel, with the settings of the wheel
    answer(version=version("pocketsphinx"), loading=time.process_time() - began)
    while header := sys.stdin.buffer.read(4):
        samples = sys.stdin.buffer.read(2 * int.from_bytes(header, "little"))
        began = time.process_time()
        decoder.start_utt()
        decoder.process_raw(samples, full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        spent = time.process_time() - began
        answer(text=found.hypstr if found else "", seconds=spent)


def answer(**facts: str | float) -> None:
    """Writes a line at once."""
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
