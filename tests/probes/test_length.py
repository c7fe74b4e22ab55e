import json

import numpy as np
import pytest

from asr.cli import main
from asr.data.utterances import read_rows
from asr.model import load_model, save_model
from asr.probes.length_measure import join, measure_lengths, wave
from asr.recognition.evaluate import evaluate
from tests.corpus import make_corpus
from tests.test_model import tiny_model


class Rows(dict):
    """The columns of a split."""

    def __len__(self):
        return len(self["id"])


def rows(*table):
    names = ("id", "speaker_id", "chapter_id", "text")
    columns = {name: [row[i] for row in table] for i, name in enumerate(names)}
    return Rows(columns | {"duration": [float(len(row[3])) for row in table]})


TABLE = rows(
    ("b2", "ann", "1", "d e"),
    ("b1", "ann", "1", "a b c"),
    ("b3", "ann", "1", "f"),
    ("c1", "ann", "2", "g h"),
    ("a1", "bob", "3", ""),
    ("a2", "bob", "3", "i"),
)


def test_utterances_of_a_chapter_are_joined_in_order_until_they_hold_enough_words():
    assert [r.text for r in join(TABLE, 4)] == ["a b c d e", "f", "g h", " i"]
    assert [r.rows for r in join(TABLE, 4)] == [(1, 0), (2,), (3,), (4, 5)]
    assert [r.speaker for r in join(TABLE, 4)] == ["ann", "ann", "ann", "bob"]
    assert [r.seconds for r in join(TABLE, 4)] == [8.0, 1.0, 3.0, 1.0]


@pytest.mark.parametrize("words", [1, 2, 3, 5, 100])
def test_every_length_covers_the_same_words_of_the_same_audio(words):
    recordings = join(TABLE, words)
    assert sorted(i for r in recordings for i in r.rows) == list(range(6))
    assert sum(len(r.text.split()) for r in recordings) == 9
    chapters = [{TABLE["chapter_id"][i] for i in r.rows} for r in recordings]
    assert all(len(chapter) == 1 for chapter in chapters)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones") / "corpus"
    make_corpus(folder, train=3, validation=3, test=9)
    return folder


@pytest.fixture
def run(tmp_path, corpus):
    model = tiny_model()
    save_model(model, tmp_path / "run", {"seed": 5, "recipe": {"data": {"corpus": str(corpus)}}})
    return tmp_path / "run"


def test_the_shortest_length_has_the_error_rate_of_an_evaluation(run, corpus, tmp_path):
    (point,) = measure_lengths(str(run), load_model(run), str(corpus), "test", [1], 60.0)
    metrics = evaluate(load_model(run), corpus, "test", output=tmp_path / "out")
    assert point.wer == metrics["wer"]["rate"]
    assert (point.recordings, point.reference_words) == (9, metrics["wer"]["words"])
    assert (point.encoder, point.decoder, point.seed) == ("LSTM", "AttentionLSTM", 5)


def test_joined_audio_equals_the_audio_of_its_utterances(run, corpus):
    table = read_rows(corpus, ["test"])
    (longest, *_) = sorted(join(table, 1000), key=lambda r: -len(r.rows))
    parts = [wave(table, one, 8000) for one in join(table, 1) if one.rows[0] in longest.rows]
    assert len(parts) == len(longest.rows) > 1
    np.testing.assert_array_equal(wave(table, longest, 8000), np.concatenate(parts))


def test_the_verb_writes_a_table_with_a_column_per_length(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["claims", "length", str(run), "--output", str(out), "--words", "1", "4"]) == 0
    page = (out / "length.md").read_text()
    assert page in capsys.readouterr().out
    assert "| 1 or more |" in page
    written = json.loads((out / "length.json").read_text())["points"]
    assert [p["words"] for p in written] == [1, 4]
    assert written[0]["reference_words"] == written[1]["reference_words"]
    assert len((out / "length.csv").read_text().splitlines()) == 3


def test_a_missing_model_is_one_line(tmp_path, capsys):
    assert main(["claims", "length", str(tmp_path / "no"), "--output", str(tmp_path / "o")]) == 2
    assert "no such model or run folder" in capsys.readouterr().err


@pytest.mark.parametrize("probe", ["length", "context"])
def test_a_model_without_a_corpus_asks_for_one(tmp_path, capsys, probe):
    save_model(tiny_model(), tmp_path / "model", {})
    model, output = str(tmp_path / "model"), str(tmp_path / "o")
    assert main(["claims", probe, model, "--output", output]) == 2
    assert "does not say on which corpus it was trained; give --corpus" in capsys.readouterr().err
