import numpy as np
import pytest

from asr.metering.disturbance import FEWEST, LARGEST, WARM_UP, Pace, disturbances

QUIET = {"core_wait_share": 0.02, "gpu_shared_seconds": None, "gpu_throttled_seconds": None}
QUIET |= {"wall_seconds": 100.0}


def paced(seconds, lengths=None, rows=8):
    """The pace of a run after its warm-up."""
    pace = Pace()
    for _ in range(WARM_UP):
        pace.add(rows, 1000, 9.0)
    for place, value in enumerate(seconds):
        pace.add(rows, 1000 if lengths is None else lengths[place], value)
    return pace


def scattered(number, seed=0):
    """Times that scatter by a factor of 1.5 about 0.1 s."""
    return 0.1 * np.exp(np.log(1.5) * np.random.default_rng(seed).standard_normal(number))


@pytest.mark.parametrize("seed", range(20))
def test_scattered_times_of_a_quiet_run_are_no_disturbance(seed):
    assert paced(scattered(10 * FEWEST, seed)).odd_tenth() is None


@pytest.mark.parametrize(("slow", "tenth"), [(slice(300, 450), 3), (slice(900, 1000), 9)])
def test_a_slow_tenth_is_found_with_its_ratio(slow, tenth):
    seconds = scattered(1000)
    seconds[slow] *= 3
    assert paced(seconds).odd_tenth() == (tenth, pytest.approx(1 / 3, rel=0.25))


def test_a_fast_tenth_of_a_run_that_was_slow_otherwise_is_found():
    seconds = scattered(1000)
    seconds[:100] /= 3
    assert paced(seconds).odd_tenth() == (0, pytest.approx(3, rel=0.25))


def test_batches_of_other_sizes_are_no_disturbance_in_any_order():
    """Times by length grow with the square, as those of attention do."""
    draw = np.random.default_rng(0)
    lengths = draw.choice([500, 1000, 2000, 4000, 8000], 1000)
    lengths.sort()
    seconds = scattered(1000) * (lengths / 1000) ** 2
    assert paced(seconds, lengths).odd_tenth() is None
    # A speed over all sizes would have found one.
    speeds = np.log2(lengths / seconds)
    tenths = [np.median(t) - np.median(speeds) for t in np.array_split(speeds, 10)]
    assert max(map(abs, tenths)) > 1


def test_a_short_run_has_too_few_batches_to_tell():
    seconds = scattered(10 * FEWEST - 1)
    seconds[:20] *= 9
    assert paced(seconds).odd_tenth() is None
    assert Pace().odd_tenth() is None


def test_a_long_run_keeps_a_bounded_record_of_all_its_time():
    seconds = np.full(3 * LARGEST, 0.1)
    seconds[: 3 * LARGEST // 10] *= 2
    pace = paced(seconds)
    assert len(pace.batches) <= LARGEST
    assert pace.odd_tenth() == (0, pytest.approx(0.5))


def test_a_resumed_run_remembers_its_pace():
    seconds = scattered(1000)
    seconds[:500] *= 3
    whole, first, second = paced(seconds), paced(seconds[:500]), Pace()
    second.load_state_dict(first.state_dict())
    for value in [9.0] * WARM_UP + list(seconds[500:]):
        second.add(8, 1000, value)
    assert second.batches == whole.batches
    assert second.odd_tenth() == whole.odd_tenth() is not None


def test_waiting_and_a_shared_gpu_above_a_tenth_are_disturbances_in_words():
    assert disturbances(QUIET, Pace(), 0) == []
    (waited,) = disturbances(QUIET | {"core_wait_share": 0.23}, Pace(), 0)
    assert (waited["kind"], waited["value"]) == ("core_wait", 0.23)
    assert "waited for a core during 23 % of the time" in waited["text"]
    gpu = QUIET | {"gpu_shared_seconds": 30.0, "gpu_throttled_seconds": 12.0}
    kinds = [one["kind"] for one in disturbances(gpu, Pace(), 1)]
    assert kinds == ["gpu_shared", "gpu_throttled"]
    assert [one["kind"] for one in disturbances(gpu, Pace(), 2)] == ["gpu_shared"]
    seconds = scattered(1000)
    seconds[200:300] *= 3
    (slow,) = disturbances(QUIET | {"core_wait_share": None}, paced(seconds), 0)
    assert slow["kind"] == "speed"
    assert "between 20 % and 30 % of its updates the run had 0." in slow["text"]


@pytest.mark.parametrize(
    ("gpus", "unknown"), [(0, "core_wait_share"), (1, "core_wait_share"), (1, "gpu_shared_seconds")]
)
def test_a_run_of_which_too_little_is_known_does_not_count_as_quiet(gpus, unknown):
    known = QUIET | {"gpu_shared_seconds": 0.0, "gpu_throttled_seconds": 0.0}
    assert disturbances(known, Pace(), gpus) == []
    assert disturbances(known | {unknown: None}, Pace(), gpus) is None
