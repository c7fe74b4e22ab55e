import json
import math

import numpy as np
import pytest
from scipy.optimize import minimize

from asr.model import give_calibration, load_model, save_model
from asr.search.calibration import (
    EPSILON,
    Calibration,
    area_under_curve,
    confidence_measures,
    cross_fitted,
    expected_calibration_error,
    normalised_cross_entropy,
    reliability,
)
from tests.test_model import tiny_model


def said(number, slope=1.0, offset=0.0, seed=0):
    """Confidences of all sizes, and words that are correct as often as the map of them says."""
    draw = np.random.default_rng(seed)
    confidences = draw.beta(2, 1, size=number).clip(0.001, 0.999)
    logits = slope * np.log(confidences / (1 - confidences)) + offset
    return confidences, draw.random(number) < 1 / (1 + np.exp(-logits))


# --- Measures ---


def test_the_calibration_error_equals_the_formula_of_guo():
    confidences, correct = said(500)
    total = 0.0
    for low in range(15):
        own = [
            (c, r)
            for c, r in zip(confidences, correct, strict=True)
            if low / 15 < c <= (low + 1) / 15
        ]
        if own:
            conf, right = np.mean(own, axis=0)
            total += len(own) / 500 * abs(right - conf)
    assert expected_calibration_error(confidences, correct) == pytest.approx(total)


def test_the_normalised_cross_entropy_equals_the_formula_of_nist():
    confidences, correct = [0.9, 0.8, 0.3, 0.6], [True, True, False, False]
    share = -4 * math.log2(0.5)
    own = math.log2(0.9) + math.log2(0.8) + math.log2(0.7) + math.log2(0.4)
    assert normalised_cross_entropy(confidences, correct) == pytest.approx((share + own) / share)


@pytest.mark.parametrize("right", [1, 7, 19])
def test_one_confidence_that_is_the_accuracy_carries_no_information(right):
    correct = [True] * right + [False] * (20 - right)
    confidences = [right / 20] * 20
    assert normalised_cross_entropy(confidences, correct) == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error(confidences, correct) == pytest.approx(0, abs=1e-12)
    assert area_under_curve(confidences, correct) == 0.5


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order():
    draw = np.random.default_rng(1)
    confidences, correct = draw.integers(0, 6, 60) / 6, draw.random(60) < 0.4
    good, bad = confidences[correct], confidences[~correct]
    pairs = [(g > b) + (g == b) / 2 for g in good for b in bad]
    assert area_under_curve(confidences, correct) == pytest.approx(np.mean(pairs))


def test_calibrated_confidences_have_a_small_calibration_error():
    confidences, correct = said(100_000)
    assert expected_calibration_error(confidences, correct) < 0.01
    expected = np.mean(
        confidences * np.log(confidences) + (1 - confidences) * np.log(1 - confidences)
    )
    share = correct.mean()
    most = share * math.log(share) + (1 - share) * math.log(1 - share)
    assert normalised_cross_entropy(confidences, correct) == pytest.approx(
        1 - expected / most, abs=0.01
    )


@pytest.mark.parametrize("outcome", [True, False])
def test_with_only_one_outcome_measures_of_discrimination_are_undefined(outcome):
    assert normalised_cross_entropy([0.3, 0.9], [outcome] * 2) is None
    assert area_under_curve([0.3, 0.9], [outcome] * 2) is None
    assert expected_calibration_error([], []) is None


def test_a_wrong_word_with_confidence_1_has_a_finite_cost():
    value = normalised_cross_entropy([1.0, 1.0, 0.5], [True, False, True])
    share = -(2 * math.log2(2 / 3) + math.log2(1 / 3))
    own = math.log2(1 - EPSILON) + math.log2(EPSILON) + math.log2(0.5)
    assert value == pytest.approx((share + own) / share)


def test_each_word_is_in_one_bin_and_bins_include_their_upper_edges():
    rows = reliability([0.0, 0.2, 0.2001, 0.4, 1.0], [1, 0, 1, 1, 1], bins=5)
    assert [row["count"] for row in rows] == [2, 2, 0, 0, 1]
    assert rows[0]["correct"] == 0.5
    assert rows[1]["confidence"] == pytest.approx(0.30005)
    assert rows[2]["confidence"] is rows[2]["correct"] is None
    confidences, correct = said(1000)
    rows = reliability(confidences, correct)
    assert sum(row["count"] for row in rows) == 1000
    total = sum(row["count"] * row["correct"] for row in rows if row["count"])
    assert total == pytest.approx(correct.sum())


def test_all_confidence_measures_can_be_written_as_json():
    confidences, correct = said(200)
    content = confidence_measures(confidences, correct)
    assert json.loads(json.dumps(content)) == content
    assert (content["count"], content["correct"]) == (200, int(correct.sum()))
    assert content["ece"] == expected_calibration_error(confidences, correct)
    assert content["nce"] == normalised_cross_entropy(confidences, correct)
    assert content["auc"] == area_under_curve(confidences, correct)


@pytest.mark.parametrize(
    ("confidences", "correct", "message"),
    [
        ([1.2], [True], "a confidence of 1.2"),
        ([math.nan], [True], "a confidence of nan"),
        ([0.1, 0.2], [True], "2 confidences but 1 words"),
    ],
)
def test_wrong_confidences_are_refused(confidences, correct, message):
    with pytest.raises(ValueError, match=message):
        confidence_measures(confidences, correct)


# --- The map ---


@pytest.mark.parametrize(("slope", "offset"), [(0.3, -1.0), (1.0, 0.0), (2.5, 0.7)])
def test_the_fitted_map_equals_that_of_a_numerical_optimiser(slope, offset):
    confidences, correct = said(300, slope, offset)
    logits = np.log(confidences / (1 - confidences))

    def cost(weights):
        shares = 1 / (1 + np.exp(-(weights[0] * logits + weights[1])))
        likelihood = np.log(np.where(correct, shares, 1 - shares)).sum()
        return -likelihood + (weights[0] - 1) ** 2 / 2 + weights[1] ** 2 / 2

    found = minimize(cost, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-9})
    fitted = Calibration.fit(confidences, correct)
    assert [fitted.slope, fitted.offset] == pytest.approx(found.x, abs=1e-5)


def test_the_map_fitted_to_many_words_recovers_the_true_one():
    fitted = Calibration.fit(*said(100_000, 0.5, -0.4))
    assert fitted.slope == pytest.approx(0.5, abs=0.02)
    assert fitted.offset == pytest.approx(-0.4, abs=0.02)


def test_applying_the_map_leaves_a_small_calibration_error():
    confidences, correct = said(20_000, 0.4, -0.5)
    fitted = Calibration.fit(confidences, correct)
    others, right = said(20_000, 0.4, -0.5, seed=1)
    mended = [fitted.apply(value) for value in others]
    assert expected_calibration_error(others, right) > 0.1
    assert expected_calibration_error(mended, right) < 0.02
    assert normalised_cross_entropy(mended, right) > 0 > normalised_cross_entropy(others, right)
    assert area_under_curve(mended, right) == pytest.approx(area_under_curve(others, right))


def test_the_map_is_that_of_platt_and_gives_probabilities():
    calibration = Calibration(0.5, -1.0)
    assert calibration.apply(0.8) == pytest.approx(1 / (1 + math.exp(1 - 0.5 * math.log(4))))
    for value in (0.0, 1e-9, 1.0):
        assert 0 < Calibration(3.0, 2.0).apply(value) <= 1
    assert Calibration(1.0, 0.0).apply(0.37) == pytest.approx(0.37)


@pytest.mark.parametrize("value", [0.0, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("outcome", [True, False])
def test_words_of_one_outcome_and_one_confidence_have_a_finite_map(value, outcome):
    fitted = Calibration.fit([value] * 1000, [outcome] * 1000)
    assert abs(fitted.slope) < 100
    assert abs(fitted.offset) < 100
    assert (fitted.apply(value) > 0.9) == outcome


def test_without_words_confidences_stay_as_they_are():
    assert Calibration.fit([], []) == Calibration(1.0, 0.0)


def test_a_map_with_a_slope_that_is_nan_is_refused():
    with pytest.raises(ValueError, match="slope of the calibration is nan"):
        Calibration(math.nan, 0.0)


def test_a_word_is_calibrated_by_a_map_fitted_to_the_other_folds():
    confidences, correct = said(200, 0.4, -0.5)
    folds = np.arange(200) % 2
    mended = cross_fitted(confidences, correct, folds)
    even = Calibration.fit(confidences[::2], correct[::2])
    odd = Calibration.fit(confidences[1::2], correct[1::2])
    assert mended[1::2] == pytest.approx([even.apply(c) for c in confidences[1::2]])
    assert mended[::2] == pytest.approx([odd.apply(c) for c in confidences[::2]])


# --- With a model ---


def test_a_model_keeps_its_calibration(tmp_path):
    model = tiny_model()
    save_model(model, tmp_path / "a", {})
    assert load_model(tmp_path / "a").calibration is None
    give_calibration(model, Calibration(0.7, -0.2))
    save_model(model, tmp_path / "a", {})
    assert load_model(tmp_path / "a").calibration == Calibration(0.7, -0.2)
    give_calibration(model, None)
    save_model(model, tmp_path / "a", {})
    assert load_model(tmp_path / "a").calibration is None


@pytest.mark.parametrize("state", [{"slope": "a", "offset": 0}, {"slope": 1}, [], {"slope": None}])
def test_a_damaged_calibration_is_named(tmp_path, state):
    model = tiny_model()
    model.description["calibration"] = state
    save_model(model, tmp_path / "a", {})
    with pytest.raises(ValueError, match=r"model\.json is damaged"):
        load_model(tmp_path / "a")
