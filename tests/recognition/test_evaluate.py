import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asr.recognition.evaluate import by_duration, evaluate, evaluation_summary
from asr.search.calibration import Calibration
from tests.coded_speech import RATE, CodedSpeech, Levels, audio_bytes, speak

# (id, speaker, what is said, reference, original)
ROWS = [
    ("u1", "ann", "one two three", "one two three", "One, two three."),
    ("u2", "bob", "one too three", "one two three", "one two three"),
    ("u3", "cid", "one three", "one two three", "one two three"),
    ("u4", "dan", "one two too three", "one two three", "one two three"),
    ("u5", "eve", "four", "four", "four"),
    ("u6", "fay", "a b", "", ""),
]


def make_corpus(folder, rows=ROWS, normaliser="lower"):
    folder.mkdir()
    table = []
    for name, speaker, said, text, original in rows:
        wave = speak(said)
        table.append(
            {
                "id": name,
                "audio": {"bytes": audio_bytes(wave, kind="FLAC"), "path": f"{name}.flac"},
                "text": text,
                "original_text": original,
                "speaker_id": speaker,
                "duration": len(wave) / RATE,
            }
        )
    pq.write_table(pa.Table.from_pylist(table), folder / "test-00000-of-00001.parquet")
    corpus = {
        "name": "coded",
        "sample_rate": RATE,
        "normaliser": normaliser,
        "synthetic": True,
        "splits": {"test": {"utterances": len(rows), "rows_sha256": "abc"}},
    }
    (folder / "corpus.json").write_text(json.dumps(corpus))
    return folder


@pytest.fixture
def run(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    model = CodedSpeech()
    metrics = evaluate(
        model, corpus, "test", output=tmp_path / "out", model_name="runs/x", batch_seconds=3.5
    )
    return metrics, tmp_path / "out", model


def test_counts_equal_those_worked_out_by_hand(run):
    metrics, _, _ = run
    wer = metrics["wer"]
    # u2 substitutes, u3 deletes, u4 inserts once, u6 inserts twice against an empty reference.
    assert (wer["substitutions"], wer["deletions"], wer["insertions"]) == (1, 1, 3)
    assert (wer["hits"], wer["words"]) == (11, 13)
    assert wer["rate"] == pytest.approx(5 / 13)
    assert metrics["sentence_error_rate"] == pytest.approx(4 / 6)
    assert metrics["utterances"] == 6
    # "one two three" is 13 characters with its spaces, four times, and "four".
    cer = metrics["cer"]
    assert cer["characters"] == 4 * 13 + 4
    assert (cer["substitutions"], cer["deletions"], cer["insertions"]) == (1, 4, 4 + 3)


def test_an_utterance_that_fails_is_named_and_left_out_of_the_rates(tmp_path, run):
    whole, _, _ = run
    corpus = make_corpus(tmp_path / "damaged")
    path = corpus / "test-00000-of-00001.parquet"
    table = pq.read_table(path).to_pylist()
    table[2]["audio"]["bytes"] = b"nonsense"
    pq.write_table(pa.Table.from_pylist(table), path)

    class Breaks(CodedSpeech):
        def decode(self, encoded, lengths):
            found = super().decode(encoded, lengths)
            if any(self.text(own[0]) == "four" for own in found):
                raise IndexError("token 99")
            return found

    metrics = evaluate(Breaks(), corpus, "test", output=tmp_path / "out", batch_seconds=3.5)
    assert [one["id"] for one in metrics["failed"]] == ["u3", "u5"]
    assert "not a readable audio file" in metrics["failed"][0]["reason"]
    assert metrics["failed"][1]["reason"] == "IndexError: token 99"
    # Without u3, which deletes one of three words, and u5, which is right.
    wer = metrics["wer"]
    assert (wer["substitutions"], wer["deletions"], wer["insertions"]) == (1, 0, 3)
    assert (wer["words"], metrics["utterances"]) == (whole["wer"]["words"] - 4, 4)
    lines = (tmp_path / "out" / "hypotheses.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["u1", "u2", "u4", "u6"]
    first, second, *_ = evaluation_summary(metrics).splitlines()
    assert first == "2 of 6 utterances failed and are in none of the rates"
    assert second.startswith("failed: u3: ")


def test_a_split_that_fails_altogether_is_one_error(tmp_path):
    class Breaks(CodedSpeech):
        def encode(self, waves, lengths):
            raise IndexError("token 99")

    corpus = make_corpus(tmp_path / "corpus")
    with pytest.raises(ValueError, match="all 6 utterances of 'test' failed; the first is u1"):
        evaluate(Breaks(), corpus, "test", output=tmp_path / "out")


def test_unnormalised_rate_compares_the_verbatim_texts(run):
    metrics, _, _ = run
    assert metrics["normaliser"] == "lower"
    assert metrics["wer_unnormalised"]["rate"] == pytest.approx((5 + 2) / 13)  # One, and three.


def test_confusions_and_worst_name_the_words(run):
    metrics, _, _ = run
    assert metrics["confusions"]["substitutions"] == [["two", "too", 1]]
    assert metrics["confusions"]["deletions"] == [["two", 1]]
    assert sorted(metrics["confusions"]["insertions"]) == [["a", 1], ["b", 1], ["too", 1]]
    assert metrics["worst"][0] == {"id": "u6", "wer": 2.0, "reference": "", "hypothesis": "a b"}
    assert {row["id"] for row in metrics["worst"][1:4]} == {"u2", "u3", "u4"}


def test_the_interval_holds_the_rate_and_names_its_method(run):
    metrics, _, _ = run
    low, high = metrics["wer"]["interval"]
    assert low <= metrics["wer"]["rate"] <= high
    assert metrics["wer"]["interval_method"].endswith("10000 resamples of 6 speakers")


def test_files_hold_the_result_and_one_line_per_utterance(run):
    metrics, output, _ = run
    assert json.loads((output / "metrics.json").read_text()) == metrics
    lines = [json.loads(line) for line in (output / "hypotheses.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [row[0] for row in ROWS]
    assert [line["hypothesis"] for line in lines] == [row[2] for row in ROWS]
    assert lines[3]["insertions"] == 1
    assert sum(line["hits"] for line in lines) == metrics["wer"]["hits"]
    assert sorted(path.name for path in output.iterdir()) == [
        "calibration.png",
        "hypotheses.jsonl",
        "metrics.json",
    ]


def test_the_lines_hold_words_with_their_times(run):
    _, output, _ = run
    lines = [json.loads(line) for line in (output / "hypotheses.jsonl").read_text().splitlines()]
    for line, (_, _, said, _, _) in zip(lines, ROWS, strict=True):
        assert [word["word"] for word in line["words"]] == said.split()
        for word, before in zip(line["words"], beginnings(said), strict=True):
            assert word["start"] == pytest.approx(0.12 * before, abs=0.001)
            end = 0.12 * (before + len(word["word"]) - 1) + 0.04
            assert word["end"] == pytest.approx(end, abs=0.001)
            assert 0.99 < word["confidence"] <= 1


def beginnings(text):
    """How many characters come before each word."""
    return [i for i, c in enumerate(text) if c != " " and (i == 0 or text[i - 1] == " ")]


def test_confidences_are_judged_by_the_alignment_that_gives_the_error_rate(run):
    metrics, output, _ = run
    confidence = metrics["confidence"]
    assert confidence["correct"] == metrics["wer"]["hits"] == 11
    assert confidence["count"] == 11 + 1 + 3  # hits, substitutions, insertions
    assert (confidence["left_out"], confidence["calibration"]) == (0, None)
    assert confidence["ece"] == pytest.approx(1 - 11 / 15, abs=0.01)  # all are said to be certain
    assert confidence["nce"] < 0
    assert sum(row["count"] for row in confidence["bins"]) == 15
    assert "BLANK" in confidence["of"]
    assert (output / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert "confidences of 15 words, as the aligner gives them" in evaluation_summary(metrics)


def test_a_calibrated_model_gives_the_calibrated_confidences(tmp_path):
    model = CodedSpeech()
    model.calibration = Calibration(0.1, 0.0)
    corpus = make_corpus(tmp_path / "corpus")
    metrics = evaluate(model, corpus, "test", output=tmp_path / "out")
    line = (tmp_path / "out" / "hypotheses.jsonl").read_text().splitlines()[0]
    assert max(word["confidence"] for word in json.loads(line)["words"]) < 0.9
    assert metrics["confidence"]["calibration"] == {"slope": 0.1, "offset": 0.0}
    assert metrics["confidence"]["ece"] < 0.1
    assert "calibrated" in evaluation_summary(metrics)


def test_without_a_ctc_head_there_are_no_confidences_and_an_old_figure_is_removed(tmp_path, caplog):
    class Deaf(Levels):
        def ctc_log_probs(self, encoded):
            return None

    corpus = make_corpus(tmp_path / "corpus")
    evaluate(CodedSpeech(), corpus, "test", output=tmp_path / "out")
    assert not caplog.text
    metrics = evaluate(CodedSpeech(Deaf()), corpus, "test", output=tmp_path / "out")
    assert metrics["confidence"] is None
    assert metrics["wer"]["hits"] == 11
    assert "no times and no confidences" in caplog.text
    assert not (tmp_path / "out" / "calibration.png").exists()
    line = (tmp_path / "out" / "hypotheses.jsonl").read_text().splitlines()[0]
    assert json.loads(line)["words"] is None
    assert "confidences" not in evaluation_summary(metrics)


def test_metrics_name_the_model_corpus_and_machine(run):
    metrics, _, _ = run
    assert metrics["corpus"]["name"] == "coded"
    assert metrics["corpus"]["synthetic"] is True
    assert metrics["corpus"]["rows_sha256"] == "abc"
    assert (metrics["split"], metrics["model"]) == ("test", "runs/x")
    assert metrics["search"] == "Greedy(beam=1)"
    assert metrics["device_name"]
    assert metrics["audio_seconds"] == pytest.approx(sum(len(speak(r[2])) for r in ROWS) / RATE)
    assert metrics["real_time_factor"] * metrics["audio_seconds"] == pytest.approx(
        metrics["decode_seconds"]
    )
    assert metrics["decode_seconds"] <= metrics["total_seconds"]
    assert metrics["unfinished"] == 0
    assert metrics["training"] == {"updates": 7}


def test_metrics_name_the_settings_that_their_times_depend_on(tmp_path, monkeypatch):
    monkeypatch.setattr("asr.recognition.evaluate.torch.get_num_threads", lambda: 3)
    monkeypatch.setattr(
        "asr.recognition.evaluate.environment", lambda: {"git_commit": "abc1234-dirty"}
    )
    corpus = make_corpus(tmp_path / "corpus")
    evaluate(CodedSpeech(), corpus, "test", output=tmp_path / "out", batch_seconds=3.5)
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["threads"] == 3
    assert written["git_commit"] == "abc1234-dirty"
    assert written["batch_seconds"] == 3.5


def test_a_batch_is_bounded_in_padded_seconds(run):
    _, _, model = run
    warm_up, *batches = model.batches
    assert batches[0] == 1  # 2.04 s, longest first; a second one would make 4.08 s
    assert sum(batches) == len(ROWS)
    assert warm_up <= batches[-1]


def test_decoding_is_timed_after_an_untimed_warm_up(tmp_path, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("asr.recognition.evaluate.time.perf_counter", lambda: float(next(clock)))
    model = CodedSpeech()
    corpus = make_corpus(tmp_path / "corpus")
    metrics = evaluate(model, corpus, "test", output=tmp_path / "out", batch_seconds=100)
    assert model.batches == [4, 6]
    assert metrics["encode_seconds"] == 1  # between two looks at the clock: one batch alone
    assert metrics["search_seconds"] == 1
    assert metrics["decode_seconds"] == 2
    assert metrics["alignment_seconds"] == 1
    assert metrics["utterances"] == 6


def test_encoder_and_search_are_timed_separately_on_an_asynchronous_device(tmp_path, monkeypatch):
    """Kernels are queued in no time; waiting for the device takes the seconds of all queued."""
    clock, queue = [0.0], [0.0]

    def wait(device):
        clock[0] += queue[0]
        queue[0] = 0.0

    class Slow(CodedSpeech):
        def encode(self, waves, lengths):
            queue[0] += 3.0
            return super().encode(waves, lengths)

        def decode(self, encoded, lengths):
            queue[0] += 5.0
            return super().decode(encoded, lengths)

    monkeypatch.setattr("asr.recognition.recognise.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("asr.recognition.recognise.wait_for", wait)
    model = Slow()
    corpus = make_corpus(tmp_path / "corpus")
    metrics = evaluate(model, corpus, "test", output=tmp_path / "out", batch_seconds=3.5)
    batches = len(model.batches) - 1  # the first is the warm-up
    assert batches > 1
    assert metrics["encode_seconds"] == 3 * batches
    assert metrics["search_seconds"] == 5 * batches
    assert metrics["decode_seconds"] == 8 * batches
    assert metrics["real_time_factor"] == pytest.approx(8 * batches / metrics["audio_seconds"])
    assert "(38 % features and encoder)" in evaluation_summary(metrics)


@pytest.mark.parametrize(("rate", "warned"), [(RATE, False), (2 * RATE, True)])
def test_a_corpus_at_another_rate_is_resampled_with_a_warning(tmp_path, caplog, rate, warned):
    corpus = make_corpus(tmp_path / "corpus")
    about = json.loads((corpus / "corpus.json").read_text())
    (corpus / "corpus.json").write_text(json.dumps(about | {"sample_rate": rate}))
    evaluate(CodedSpeech(), corpus, "test", output=tmp_path / "out")
    assert ("resampled from 16000 to 8000 Hz" in caplog.text) == warned


def test_bins_of_duration_sum_to_the_total(run):
    metrics, _, _ = run
    bins = metrics["by_duration"]
    assert sum(b["words"] for b in bins) == metrics["wer"]["words"]
    assert sum(b["utterances"] for b in bins) == metrics["utterances"]
    errors = sum(b["wer"] * b["words"] for b in bins if b["words"])
    empty = sum(row["wer"] for row in metrics["worst"] if not row["reference"])
    no_words = sum(b["words"] == 0 for b in bins) > 0
    assert errors + (empty if no_words else 0) == pytest.approx(5)
    for left, right in zip(bins, bins[1:], strict=False):
        assert left["to_seconds"] <= right["from_seconds"]


def test_equal_durations_share_one_bin():
    from asr.recognition.evaluate import Alignment

    table = by_duration([2.0, 2.0, 2.0], [Alignment(1, 0, 0, 3)] * 3)
    assert table == [
        {"from_seconds": 2.0, "to_seconds": 2.0, "utterances": 3, "words": 12, "wer": 0.25}
    ]


def test_summary_shows_rates_in_percent_and_the_worst(run):
    metrics, _, _ = run
    text = evaluation_summary(metrics)
    assert "WER 38.46 % [" in text
    assert "1 substitutions, 1 deletions, 3 insertions" in text
    assert "worst: u6, WER 200 %" in text
    assert text.count("worst:") == 3
    assert "synthetic" in text.splitlines()[0]


def test_a_missing_split_is_an_error_that_lists_those_present(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    with pytest.raises(ValueError, match="split 'dev' is not in .*; it has test"):
        evaluate(CodedSpeech(), corpus, "dev", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_normaliser_of_the_corpus_is_used_with_a_warning(tmp_path, caplog):
    rows = [("u1", "ann", "it's", "IT'S", "IT'S")]
    corpus = make_corpus(tmp_path / "corpus", rows, normaliser="none")
    metrics = evaluate(CodedSpeech(), corpus, "test", output=tmp_path / "out")
    assert metrics["normaliser"] == "none"
    assert metrics["wer"]["rate"] == 1  # the corpus wants capitals
    assert "trained with normaliser 'lower'" in caplog.text


def test_an_unfinished_hypothesis_is_counted(tmp_path):
    class Cut:
        def __call__(self, decoder, encoded, lengths):
            from tests.coded_speech import greedy

            found = greedy(decoder, encoded, lengths)
            for hypotheses in found:
                hypotheses[0].finished = False
            return found

    corpus = make_corpus(tmp_path / "corpus", ROWS[:2])
    metrics = evaluate(CodedSpeech(search=Cut()), corpus, "test", output=tmp_path / "out")
    assert metrics["unfinished"] == 2
    assert "2 hypotheses did not end" in evaluation_summary(metrics)
    assert metrics["wer"]["interval_method"].endswith("2 speakers (too few: Student's t alone)")
