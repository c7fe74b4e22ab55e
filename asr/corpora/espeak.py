"""Synthesises speech with eSpeak NG, in a new process per call so that results are repeatable.

eSpeak NG keeps state from utterance to utterance (the phase of its oscillators, its random breath)
and is not thread-safe. This file is both the function ``speak`` and the program that it starts,
which reads requests as JSON and needs nothing of this project.
"""

import ctypes
import json
import marshal
import subprocess
import sys
from typing import Any, NamedTuple

RATE, PITCH = 1, 3  # espeak_PARAMETER, speak_lib.h
SYNCHRONOUS = 1  # AUDIO_OUTPUT_SYNCHRONOUS: samples to the callback, no sound device
UTF8 = 1  # espeakCHARS_UTF8


class Request(NamedTuple):
    """One utterance to speak."""

    text: str
    voice: str  # eSpeak NG's language and variant, as "en-us+f3"
    words_per_minute: int  # 80 to 450
    pitch: int  # 0 to 99; 50 is the voice's own


def speak(requests: list[Request]) -> tuple[int, list[bytes]]:
    """Returns the sample rate in Hz, and 16-bit mono samples for each request.

    Raises:
        OSError: the library cannot be loaded, or does not know a voice.
    """
    # -P keeps this file's folder from coming before the standard library in the module path.
    done = subprocess.run(
        [sys.executable, "-P", __file__],
        input=json.dumps(requests).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        error = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise OSError(f"eSpeak NG failed ({error}); reinstall the package espeakng-loader")
    rate, waves = marshal.loads(done.stdout)
    return rate, waves


def _spoken(requests: list[Any]) -> tuple[int, list[bytes]]:
    """Does the work of ``speak`` in this process."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate <= 0:
        raise OSError("espeak_Initialize failed")
    samples = bytearray()

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def receive(wave: "ctypes._Pointer[ctypes.c_short]", count: int, _: object) -> int:
        if wave and count > 0:
            samples.extend(ctypes.string_at(wave, 2 * count))
        return 0

    library.espeak_SetSynthCallback(receive)
    waves = []
    for text, voice, words_per_minute, pitch in requests:
        samples.clear()
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise OSError(f"no voice {voice}")
        library.espeak_SetParameter(RATE, words_per_minute, 0)
        library.espeak_SetParameter(PITCH, pitch, 0)
        spoken = text.encode() + b"\0"
        if library.espeak_Synth(spoken, len(spoken), 0, 1, 0, UTF8, None, None) != 0:
            raise OSError(f"cannot say {text!r}")
        library.espeak_Synchronize()
        waves.append(bytes(samples))
    return rate, waves


if __name__ == "__main__":
    marshal.dump(_spoken(json.load(sys.stdin)), sys.stdout.buffer)
