"""Speech by eSpeak NG, in a fresh process per call, so that equal requests give equal samples.

eSpeak NG keeps state from utterance to utterance (the phase of its oscillators, its random breath)
and is not thread-safe. This file is both the function ``speak`` and the program that it starts:
requests as JSON lines in, samples out. The program needs nothing of this project.
"""

import ctypes
import json
import struct
import subprocess
import sys
from dataclasses import asdict, dataclass

RATE, PITCH = 1, 3  # espeak_PARAMETER, speak_lib.h
SYNCHRONOUS = 1  # AUDIO_OUTPUT_SYNCHRONOUS: samples to the callback, no sound device
UTF8 = 1  # espeakCHARS_UTF8


@dataclass(frozen=True)
class Request:
    """One utterance to speak.

    Attributes:
        text: what to say.
        voice: eSpeak NG's language and variant, as "en-us+f3".
        words_per_minute: speed, 80 to 450.
        pitch: 0 to 99; 50 is the voice's own.
    """

    text: str
    voice: str
    words_per_minute: int
    pitch: int


def speak(requests: list[Request]) -> tuple[int, list[bytes]]:
    """The sample rate in Hz, and 16-bit mono samples for each request.

    Raises:
        OSError: the library cannot be loaded, or does not know a voice.
    """
    lines = "".join(json.dumps(asdict(r)) + "\n" for r in requests)
    # -P: this file's folder must not come before the standard library.
    done = subprocess.run(
        [sys.executable, "-P", __file__], input=lines.encode(), capture_output=True, check=False
    )
    if done.returncode != 0:
        error = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise OSError(f"eSpeak NG failed ({error}); reinstall the package espeakng-loader")
    (rate,) = struct.unpack_from("<I", done.stdout)
    position, waves = 4, []
    for _ in requests:
        (size,) = struct.unpack_from("<I", done.stdout, position)
        waves.append(done.stdout[position + 4 : position + 4 + size])
        position += 4 + size
    return rate, waves


class _Synthesiser:
    """The C library in this process."""

    def __init__(self) -> None:
        import espeakng_loader

        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.rate = self.library.espeak_Initialize(SYNCHRONOUS, 0, data, 0)
        if self.rate <= 0:
            raise OSError("espeak_Initialize failed")
        self.samples = bytearray()
        signature = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        # Kept as an attribute: the library calls it long after this function returned.
        self.callback = signature(self._receive)
        self.library.espeak_SetSynthCallback(self.callback)

    def _receive(self, wave: "ctypes._Pointer[ctypes.c_short]", count: int, _: object) -> int:
        if wave and count > 0:
            self.samples += ctypes.string_at(wave, 2 * count)
        return 0

    def say(self, text: str, voice: str, words_per_minute: int, pitch: int) -> bytes:
        self.samples.clear()
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise OSError(f"no voice {voice}")
        self.library.espeak_SetParameter(RATE, words_per_minute, 0)
        self.library.espeak_SetParameter(PITCH, pitch, 0)
        spoken = text.encode() + b"\0"
        if self.library.espeak_Synth(spoken, len(spoken), 0, 1, 0, UTF8, None, None) != 0:
            raise OSError(f"cannot say {text!r}")
        self.library.espeak_Synchronize()
        return bytes(self.samples)


def _main() -> None:
    synthesiser = _Synthesiser()
    out = sys.stdout.buffer
    out.write(struct.pack("<I", synthesiser.rate))
    for line in sys.stdin:
        samples = synthesiser.say(**json.loads(line))
        out.write(struct.pack("<I", len(samples)) + samples)
    out.flush()


if __name__ == "__main__":
    _main()
