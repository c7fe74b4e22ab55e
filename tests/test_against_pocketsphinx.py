"""The comparison with PocketSphinx, which a stand-in replaces: it answers what a test tells it."""

import json
import os
import re
import sys
import textwrap

import numpy as np
import pytest

from asr.corpora.prepare import prepare
from asr.data.utterances import decode_rows, read_rows
from benchmarks import against_pocketsphinx as benchmark
from benchmarks.against_pocketsphinx import OURS, RATE, THEIRS, PocketSphinx, Recognised
from tests.corpus import Tones


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    prepare(Tones(sizes={"test": 12}), folder, sample_rate=RATE, normaliser="none")
    return folder


@pytest.fixture
def environment(tmp_path):
    """An environment whose PocketSphinx answers with the length of the audio, or ends at once."""

    def make(version: str = benchmark.VERSION, text: str = "f'{len(self.samples)} samples'"):
        folder, packages = tmp_path / "environment", tmp_path / "packages"
        about = packages / f"pocketsphinx-{version}.dist-info"
        for each in (folder / "bin", about):
            each.mkdir(parents=True)
        (about / "METADATA").write_text(f"Name: pocketsphinx\nVersion: {version}\n")
        (packages / "pocketsphinx.py").write_text(
            textwrap.dedent(f"""
                class Decoder:
                    def start_utt(self): pass
                    def process_raw(self, samples, full_utt): self.samples = samples
                    def end_utt(self): pass
                    def hyp(self):
                        found = {text}
                        return None if found is None else type("Found", (), {{"hypstr": found}})
            """)
        )
        program = benchmark.python_of(folder)
        program.write_text(f'#!/bin/sh\nPYTHONPATH={packages} exec {sys.executable} "$@"\n')
        program.chmod(0o755)
        return folder

    return make


class Reader:
    """Stands in for a model: writes the reference with every third word left out."""

    loading = 2.0

    def __init__(self, drawn):
        self.drawn = drawn

    def recognise(self, name, wave):
        words = self.drawn.references[self.drawn.ids.index(name)].split()
        return " ".join(word for i, word in enumerate(words) if i % 3 != 2), 0.5


def test_the_numbers_of_pronunciations_and_noises_are_no_words():
    assert benchmark.normalised("A(2) cat's <sil> [NOISE] read(3)") == "a cat's read"


def test_the_draw_depends_on_the_seed_alone_and_holds_the_audio_of_its_rows(corpus):
    drawn = benchmark.draw(corpus, "test", 5, seed=3)
    assert drawn.ids == benchmark.draw(corpus, "test", 5, seed=3).ids
    assert drawn.ids != benchmark.draw(corpus, "test", 5, seed=4).ids
    assert len(set(drawn.ids)) == 5
    rows = read_rows(corpus, ["test"])
    for name, speaker, text, wave in zip(
        drawn.ids, drawn.speakers, drawn.references, drawn.waves, strict=True
    ):
        row = rows["id"].index(name)
        assert (speaker, text) == (rows["speaker_id"][row], rows["text"][row])
        assert np.array_equal(wave, decode_rows(rows, RATE, [row])[row])
    assert drawn.seconds == pytest.approx(sum(len(wave) for wave in drawn.waves) / RATE)


def test_the_process_gets_all_samples_and_tells_its_cpu_time(environment):
    wave = np.arange(-500, 500, dtype=np.int16)
    found = "str(list(memoryview(self.samples).cast('h')[:3])) + str(len(self.samples) // 2)"
    theirs = PocketSphinx(environment(text=found))
    try:
        text, seconds = theirs.recognise("one", wave)
        assert text == "[-500, -499, -498]1000"
        assert 0 <= seconds < 60
        assert theirs.version == benchmark.VERSION
        assert theirs.recognise("none", wave[:0])[0] == "[]0"
    finally:
        theirs.close()


def test_silence_is_no_text(environment):
    theirs = PocketSphinx(environment(text="None"))
    try:
        assert theirs.recognise("silent", np.zeros(10, np.int16))[0] == ""
    finally:
        theirs.close()


def test_a_process_that_ends_is_named_with_the_utterance(environment):
    theirs = PocketSphinx(environment(text="__import__('os')._exit(3)"))
    with pytest.raises(ValueError, match="status 3 at utterance-7;"):
        theirs.recognise("utterance-7", np.zeros(10, np.int16))
    with pytest.raises(ValueError, match="status 3 at utterance-8;"):
        theirs.recognise("utterance-8", np.zeros(10, np.int16))
    theirs.close()


def test_the_sides_take_turns_to_be_first(corpus):
    drawn = benchmark.draw(corpus, "test", 4, seed=1)
    order = []

    class Side:
        loading = 0.0

        def __init__(self, name):
            self.name = name

        def recognise(self, name, wave):
            order.append((self.name, name))
            return "a", 1.0

    benchmark.recognise(drawn, Side(THEIRS), Side(OURS))
    assert [name for _, name in order] == [name for name in drawn.ids for _ in range(2)]
    assert [side for side, _ in order] == [THEIRS, OURS, OURS, THEIRS] * 2


def test_rates_costs_and_the_difference_of_the_table():
    drawn = benchmark.Drawn(
        ids=list("abcdef"),
        speakers=["1", "2", "3", "4", "5", "6"],
        references=["one two three four"] * 6,
        waves=[np.zeros(RATE, np.int16)] * 6,  # 6 seconds
        rows_sha256="",
    )
    theirs, ours = Recognised(loading=1.0), Recognised(loading=2.0)
    for number in range(6):
        theirs.add("one TWO(2) three", 0.3)  # 1 error each
        ours.add("one two three four" if number else "one two five", 0.06)  # 2 errors in all
    rows, difference = benchmark.compare(drawn, {THEIRS: theirs, OURS: ours})
    assert (rows[THEIRS]["errors"], rows[OURS]["errors"]) == (6, 2)
    assert rows[THEIRS]["wer"] == pytest.approx(6 / 24)
    assert rows[OURS]["cpu_seconds_per_second"] == pytest.approx(0.06)
    # Each speaker's difference in points of WER is paired: +25 for the first, -25 for the others.
    each = np.array([25] + [-25] * 5)
    assert 100 * difference.value == pytest.approx(each.mean())
    t = 2.5706  # Student's t, 5 degrees of freedom
    reach = t * each.std(ddof=1) / 6**0.5
    assert 100 * difference.interval[1] == pytest.approx(each.mean() + reach, rel=1e-4)
    text = benchmark.table(rows, difference, {THEIRS: "PocketSphinx 5", OURS: "asr, m"})
    assert "| PocketSphinx 5 | 25.0 % [25.0 to 25.0] | 0.300 | 1.00 |" in text
    assert "| asr minus PocketSphinx | -16.67 points [-38.09 to 4.75] | 0.200 times | |" in text
    assert "neither side" in benchmark.verdict(difference, 6)
    assert "too few" in benchmark.verdict(difference, 4)


def test_the_whole_comparison_writes_and_prints_what_it_measured(
    corpus, environment, monkeypatch, capsys, tmp_path
):
    class Model(Reader):
        model = type("Model", (), {"search": "Greedy()", "summary": {}})

        def __init__(self, path, name, first):
            super().__init__(benchmark.draw(corpus, "test", 12, seed=1))

    monkeypatch.setattr(benchmark, "Asr", Model)
    given = ["a-model", "--corpus", str(corpus), "--utterances", "6"]
    given += ["--environment", str(environment(text="'ab ba'"))]
    output = tmp_path / "new" / "report.json"
    assert benchmark.main([*given, "--output", str(output)]) == 0
    report, printed = json.loads(output.read_text()), capsys.readouterr().out
    lines = report["utterances"]
    assert len(lines) == 6
    assert {line["PocketSphinx"] for line in lines} == {"ab ba"}
    assert report["rows"][OURS]["errors"] == sum(
        len(line["reference"].split()) // 3 for line in lines
    )
    assert f"PocketSphinx {benchmark.VERSION}" in printed
    assert "6 utterances" in printed
    assert "seed 1" in printed


def test_an_environment_of_the_same_version_is_used_again(environment):
    folder = environment()
    benchmark.install(folder)
    assert sorted(os.listdir(folder)) == ["bin"]


def test_an_environment_without_a_wheel_is_one_clear_line(tmp_path, capsys, corpus, monkeypatch):
    monkeypatch.setattr(benchmark, "Asr", lambda *_: None)
    program = benchmark.python_of(tmp_path / "environment")
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho 'ERROR: No matching distribution' >&2\nexit 1\n")
    program.chmod(0o755)
    given = ["m", "--corpus", str(corpus), "--utterances", "1"]
    assert benchmark.main([*given, "--environment", str(tmp_path / "environment")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "no wheel of pocketsphinx" in last
    assert "No matching distribution" in last


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--split", "dev"], "split 'dev' is not in"),
        (["--utterances", "13"], "--utterances 13: the split 'test' of .* has only 12 utterances"),
        (["--utterances", "0"], "'0' is not a whole number above 0"),
        (["--utterances", "1"], "no such model"),
        (["--beam", "1"], "unrecognized arguments: --beam"),
    ],
)
def test_bad_input_is_one_clear_line(corpus, capsys, options, named):
    assert benchmark.main(["no-model", "--corpus", str(corpus), *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(named, line)


def test_audio_below_the_rate_of_the_model_is_refused(tmp_path, capsys):
    prepare(Tones(sizes={"test": 3}), tmp_path / "low", sample_rate=8000, normaliser="none")
    given = ["m", "--corpus", str(tmp_path / "low"), "--utterances", "1"]
    assert benchmark.main(given) == 2
    assert "8000 Hz" in capsys.readouterr().err
