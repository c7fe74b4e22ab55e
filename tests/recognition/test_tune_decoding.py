import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from asr.model import SpeechModel, load_model, save_model
from asr.recognition.evaluate import evaluate, evaluation_summary
from asr.recognition.reliability import Judgement, judged
from asr.recognition.tune_decoding import draws, edges, tune_decoding, tuning_summary
from asr.search import Beam
from tests.corpus import make_corpus
from tests.test_model import tiny_model


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones") / "corpus"
    make_corpus(folder, train=3, validation=8, test=3)
    return folder


@pytest.fixture
def folder(tmp_path):
    """A model that knows nothing, but says something else with each way to search."""
    save_model(tiny_model(), tmp_path / "model", {"updates": 3})
    return tmp_path / "model"


def tune(folder, corpus, **options):
    return tune_decoding(load_model(folder), folder, corpus, **options)


def drawn_of(keys, number, seed):
    return draws(Beam.ranges, list(keys), number, seed)


def test_the_draws_of_a_key_do_not_depend_on_what_else_is_drawn():
    one, other = drawn_of(["length_bonus"], 5, 3), drawn_of(Beam.ranges, 5, 3)
    assert [d["length_bonus"] for d in one] == [d["length_bonus"] for d in other]
    assert len({d["length_bonus"] for d in one}) == 5
    for drawn in other:
        assert drawn["internal_lm_weight"] <= drawn["lm_weight"]
        for key, (low, high) in Beam.ranges.items():
            assert low <= drawn[key] <= high
    assert drawn_of(Beam.ranges, 8, 3)[:5] == other
    assert drawn_of(Beam.ranges, 5, 4) != other


def test_several_language_models_share_the_weight_that_one_would_have():
    one = drawn_of(Beam.ranges, 20, 3)
    three = draws(Beam.ranges, list(Beam.ranges), 20, 3, models=3)
    for alone, shared in zip(one, three, strict=True):
        assert sum(shared["lm_weight"]) == pytest.approx(alone["lm_weight"], abs=2e-3)
        assert min(shared["lm_weight"]) >= 0
        assert shared | {"lm_weight": 0} == alone | {"lm_weight": 0}
    assert len({max(range(3), key=draw["lm_weight"].__getitem__) for draw in three}) == 3


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"length_bonus": Beam.ranges["length_bonus"][1] - 0.01}, {"length_bonus"}),
        ({"length_bonus": Beam.ranges["length_bonus"][0] + 0.01}, {"length_bonus"}),
        ({"length_bonus": 0.5}, set()),
    ],
)
def test_a_best_setting_at_an_edge_names_its_range(
    folder, corpus, monkeypatch, caplog, options, named
):
    settings = [{"beam": 2, **options}]
    monkeypatch.setattr("asr.recognition.tune_decoding._settings", lambda *rest: settings)
    chosen = tune(folder, corpus, trials=1)["chosen"]
    low, high = Beam.ranges["length_bonus"]
    ranges = [line for line in caplog.messages if f"the range from {low:g} to {high:g}" in line]
    assert {line.split()[0] for line in ranges} == named
    widest = any("the widest that was tried" in line for line in caplog.messages)
    assert widest == (chosen["beam"] == max(Beam.beams))


def test_weights_that_end_at_0_by_nature_are_at_no_edge():
    options = {"beam": 4, "lm_weight": [0.0, 0.01], "internal_lm_weight": 0.0, "ctc_weight": 0.0}
    assert list(edges(Beam.ranges, options, 16)) == []
    high = Beam.ranges["lm_weight"][1]
    options |= {"lm_weight": [high / 2, high / 2], "internal_lm_weight": 0.2 * high}
    [only] = edges(Beam.ranges, options, 16)
    assert only.startswith(
        f"lm_weight {high:g} is best, at the edge of the range from 0 to {high:g}"
    )


def test_the_stored_search_reproduces_the_errors_that_tuning_counted(folder, corpus, tmp_path):
    result = tune(folder, corpus, trials=4)
    metrics = evaluate(load_model(folder), corpus, "validation", output=tmp_path / "out")
    assert metrics["wer"]["rate"] == result["wer"]
    assert metrics["search"] == repr(load_model(folder).search)
    assert result["wer"] == min(t["wer"] for t in result["trials"] + result["beams"])
    assert len(result["trials"]) == 4
    assert [t["options"]["beam"] for t in result["beams"]] == list(Beam.beams)


def test_the_smallest_of_the_best_beams_is_kept(folder, corpus):
    result = tune(folder, corpus, trials=1)
    best = min(t["errors"] for t in result["beams"])
    smallest = min(t["options"]["beam"] for t in result["beams"] if t["errors"] == best)
    assert result["chosen"]["beam"] == smallest


def test_the_beam_of_the_trials_is_a_candidate(folder, corpus):
    result = tune(folder, corpus, trials=3, beam=3)
    assert [t["options"]["beam"] for t in result["beams"]] == [1, 2, 3, 4, 8, 16]
    assert result["wer"] <= min(t["wer"] for t in result["trials"])


def test_an_evaluation_on_the_tuning_split_says_so(folder, corpus, tmp_path):
    tune(folder, corpus, trials=2)
    for split in ("validation", "test"):
        metrics = evaluate(load_model(folder), corpus, split, output=tmp_path)
        assert metrics["tuned_on_it"] == (split == "validation")
        assert ("chosen on these same utterances" in evaluation_summary(metrics)) == metrics[
            "tuned_on_it"
        ]


def test_trials_and_their_cost_are_written_beside_the_model(folder, corpus):
    before = load_model(folder)
    result = tune(folder, corpus, trials=2)
    written = json.loads((folder / "tuning.json").read_text())
    assert written == json.loads(json.dumps(result))
    after = load_model(folder)
    assert after.summary["updates"] == 3
    assert after.summary["tuning"]["trials"] == 2
    assert 0 < after.summary["tuning"]["device_hours"] < 1
    for name, value in before.state_dict().items():
        assert torch.equal(value, after.state_dict()[name])


@pytest.mark.parametrize(
    ("where", "said"),
    [("encode", "use a smaller split"), ("search", "the beam, which is 8")],
)
def test_running_out_of_memory_names_the_remedy_and_does_not_change_the_model(
    folder, corpus, monkeypatch, where, said
):
    def too_much(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    before = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(
        *((SpeechModel, "encode") if where == "encode" else (Beam, "__call__")), too_much
    )
    with pytest.raises(ValueError, match=f"on cpu: lower batch_seconds, which is 120.0, or {said}"):
        tune(folder, corpus, trials=1)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_an_utterance_that_cannot_be_decoded_is_named_and_the_others_are_tuned_on(folder, tmp_path):
    place = tmp_path / "damaged"
    make_corpus(place, train=1, validation=4, test=1)
    whole = tune(folder, place, trials=1)
    [path] = place.glob("validation-*.parquet")
    table = pq.read_table(path).to_pylist()
    table[1]["audio"]["bytes"] = b"nonsense"
    pq.write_table(pa.Table.from_pylist(table), path)
    result = tune(folder, place, trials=1)
    assert [one["id"] for one in result["failed"]] == [table[1]["id"]]
    assert whole["failed"] == []
    lost = len(table[1]["text"].split())
    assert result["trials"][0]["words"] == whole["trials"][0]["words"] - lost


def test_the_test_split_is_refused_for_tuning(folder, corpus):
    for split in ("test", "test-other", "Test", "small_test"):
        with pytest.raises(ValueError, match=f"--split {split}: this split is for final results"):
            tune(folder, corpus, split=split)
    with pytest.raises(ValueError, match="--trials 0"):
        tune(folder, corpus, trials=0)
    assert not (folder / "tuning.json").exists()


def planted(sure, doubtful):
    """Nine of ten sure words are right and one of ten doubtful ones, ten times, in any order."""
    kinds = [(sure, True)] * 90 + [(sure, False)] * 10
    kinds += [(doubtful, True)] * 10 + [(doubtful, False)] * 90
    confidences, correct = zip(*random.Random(0).sample(kinds, len(kinds)), strict=True)
    return Judgement(list(confidences), list(correct), list(range(len(kinds))), 0)


@pytest.mark.parametrize(
    ("found", "kept"), [(planted(0.9, 0.1), False), (planted(0.9999, 0.7), True)]
)
def test_a_calibration_is_kept_only_if_it_helps_held_out_words(
    folder, corpus, monkeypatch, found, kept
):
    monkeypatch.setattr("asr.recognition.tune_decoding.judged", lambda words, *rest: found)
    result = tune(folder, corpus, trials=1)
    confidence, model = result["confidence"], load_model(folder)
    before, after = confidence["before"], confidence["cross_fitted"]
    assert confidence["kept"] == (after["nce"] > before["nce"]) == kept
    assert before["auc"] == pytest.approx(0.9)
    if kept:
        assert model.calibration.apply(0.9999) == pytest.approx(0.9, abs=0.05)
        assert model.calibration.apply(0.7) == pytest.approx(0.1, abs=0.05)
        assert after["ece"] < 0.1 < before["ece"]
        assert "of 200 words calibrated: calibration error 0.350 -> 0.0" in tuning_summary(result)
    else:
        assert model.calibration is None
        assert "of 200 words left as they are" in tuning_summary(result)


def test_the_calibration_is_fitted_to_words_of_the_chosen_search(folder, corpus, monkeypatch):
    seen = {}

    def watched(words, references, normalise):
        seen["texts"] = [" ".join(word.text for word in own) for own in words]
        return judged(words, references, normalise)

    monkeypatch.setattr("asr.recognition.tune_decoding.judged", watched)
    talkative = [{"beam": 2, "length_bonus": 3.0}]  # else it makes fewest errors by saying nothing
    monkeypatch.setattr("asr.recognition.tune_decoding._settings", lambda *rest: talkative)
    tune(folder, corpus, trials=1)
    evaluate(load_model(folder), corpus, "validation", output=folder / "out")
    written = (folder / "out" / "hypotheses.jsonl").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    assert any(seen["texts"])
    assert seen["texts"] == [" ".join(line["hypothesis"].split()) for line in lines]


def test_a_model_without_times_has_no_confidences_to_calibrate(folder, corpus, monkeypatch):
    monkeypatch.setattr("asr.recognition.tune_decoding.aligns", lambda decoder: False)
    result = tune(folder, corpus, trials=1)
    assert result["confidence"] is None
    assert "confidences are not calibrated" in tuning_summary(result)
