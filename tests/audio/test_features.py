import math

import pytest
import torch
import torchaudio

from asr.audio.features import FLOOR, Augmentation, LogMel, samples
from asr.batch import Share


def waves(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = [0.1 * torch.randn(n, generator=generator) for n in lengths]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(lengths)


def test_frames_equal_those_of_torchaudio_without_centring():
    wave, lengths = waves(8000)
    ours = LogMel().log_mel(wave, lengths)
    window = torch.zeros(512)
    window[:400] = torch.hann_window(400)
    power = (
        torch.stft(wave, 512, 160, window=window, center=False, return_complex=True)
        .abs()
        .square()
        .transpose(1, 2)
    )  # (1, T', bins); fewer frames, for it reads 512 samples each
    filters = torchaudio.functional.melscale_fbanks(257, 20.0, 8000.0, 80, 16000)
    theirs = torch.log(power @ filters + FLOOR)
    torch.testing.assert_close(ours[:, : theirs.shape[1]], theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rubbish", [0.0, 100.0, math.nan])
def test_features_do_not_depend_on_padding_or_on_the_rest_of_the_batch(rubbish):
    features = LogMel(num_mels=40)
    batch, lengths = waves(16000, 7777, 300, 1)
    batch = batch.masked_fill(torch.arange(16000) >= lengths[:, None], rubbish)
    together, frames = features(batch, lengths)
    for row, length, wave, size in zip(together, lengths, batch, frames, strict=True):
        alone, alone_frames = features(wave[None, :length], length[None])
        assert alone_frames == size == alone.shape[1]
        torch.testing.assert_close(row[:size], alone[0], atol=1e-5, rtol=0)
        assert not row[size:].any()


@pytest.mark.parametrize("number", [1, 399, 400, 559, 560, 561, 16000])
def test_the_number_of_frames_counts_whole_windows_and_is_at_least_one(number):
    features = LogMel(num_mels=40)
    starts = [s for s in range(0, number, 160) if s + 400 <= number]
    x, frames = features(torch.zeros(1, number), torch.tensor([number]))
    assert x.shape[1] == frames.item() == max(1, len(starts))


def test_no_frame_sees_the_future():
    features = LogMel(num_mels=40)
    wave, lengths = waves(16000)
    changed = wave.clone()
    changed[:, 8000:] += 1
    before, after = features(wave, lengths)[0], features(changed, lengths)[0]
    untouched = (8000 - 400) // 160 + 1
    assert torch.equal(before[:, :untouched], after[:, :untouched])
    assert not torch.equal(before[:, untouched], after[:, untouched])


def test_fitted_features_have_mean_0_and_deviation_1():
    features = LogMel(num_mels=40)
    batch, lengths = waves(9000, 20000, 5000)
    features.fit(wave[:n] for wave, n in zip(batch, lengths, strict=True))
    x, frames = features(batch, lengths)
    real = torch.cat([row[:n] for row, n in zip(x, frames, strict=True)])
    torch.testing.assert_close(real.mean(0), torch.zeros(40), atol=1e-4, rtol=0)
    torch.testing.assert_close(real.std(0), torch.ones(40), atol=0.01, rtol=0)


def test_an_impossible_rate_or_number_of_bins_is_named():
    with pytest.raises(ValueError, match="sample_rate 11025.*8000 or 16000"):
        samples((25, 1000), 11025)
    with pytest.raises(ValueError, match="num_mels 256"):
        LogMel(num_mels=256)
    with pytest.raises(ValueError, match="training split is empty"):
        LogMel().fit([])


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_perturbation_moves_a_tone_by_the_factor(factor):
    time = torch.arange(16000) / 16000
    tone = torch.sin(2 * math.pi * 1000 * time)[None]
    out, lengths = Augmentation(speed=[factor]).perturb(tone, torch.tensor([16000]), 16000, seed=1)
    assert lengths.item() == out.shape[1] == math.ceil(16000 / factor)
    spectrum = torch.fft.rfft(out[0]).abs()
    hertz = spectrum.argmax() * 16000 / out.shape[1]
    assert hertz == pytest.approx(1000 * factor, abs=2)


def test_noise_has_the_requested_level_and_is_off_by_default():
    wave, lengths = waves(40000, 40000, 20000)
    augmentation = Augmentation(noise_probability=1.0, noise_snr_db=(20.0, 20.0))
    noisy, _ = augmentation.perturb(wave, lengths, 16000, seed=1)
    for before, after, n in zip(wave, noisy, lengths, strict=True):
        ratio = before[:n].square().mean() / (after - before)[:n].square().mean()
        assert 10 * torch.log10(ratio) == pytest.approx(20, abs=0.3)
    untouched, _ = Augmentation().perturb(wave, lengths, 16000, seed=1)
    assert untouched is wave


def test_an_utterance_meets_the_same_augmentation_in_any_share_of_its_batch():
    wave, lengths = waves(20000, 12000, 16000, 9000)
    x, frames = torch.ones(4, 100, 40), torch.tensor([100, 60, 80, 40])
    augmentation = Augmentation(
        speed=[0.9, 1.1], noise_probability=0.7, time_masks=2, frequency_masks=1
    )
    perturbed, heard = augmentation.perturb(wave, lengths, 16000, seed=1)
    masked = augmentation.spec_augment(x, frames, seed=2)
    for rows in ([1, 3], [2], [0, 1, 2, 3]):
        share = Share(rows, rows, total=4)
        shorter = wave[rows, : lengths[rows].max()]
        part, part_heard = augmentation.perturb(shorter, lengths[rows], 16000, 1, share)
        assert torch.equal(part_heard, heard[rows])
        for row, whole, length in zip(part, perturbed[rows], part_heard, strict=True):
            torch.testing.assert_close(row[:length], whole[:length], rtol=0, atol=1e-6)
        assert torch.equal(augmentation.spec_augment(x[rows], frames[rows], 2, share), masked[rows])


def test_masks_are_bands_within_their_bounds_and_repeat_with_the_seed():
    x, lengths = torch.ones(8, 200, 40), torch.tensor([200, 150, 100, 50, 20, 200, 200, 200])
    augmentation = Augmentation(
        frequency_masks=1, frequency_width=0.25, time_masks=1, time_width=0.1
    )
    covered = augmentation.spec_augment(x, lengths, seed=5)
    assert torch.equal(covered, augmentation.spec_augment(x, lengths, seed=5))
    assert not torch.equal(covered, augmentation.spec_augment(x, lengths, seed=6))
    for row, length in zip(covered, lengths, strict=True):
        bins, frames = (row == 0).all(0), (row == 0).all(1)
        assert bins.sum() <= 0.25 * 40 + 1
        assert frames.sum() <= 0.1 * length + 1
        assert not frames[length:].any()
        for hidden in (bins, frames):
            edges = hidden.int().diff(prepend=torch.zeros(1), append=torch.zeros(1)).abs().sum()
            assert edges in (0, 2), "one band"
    assert any((row == 0).any() for row in covered)


def test_wrong_augmentation_is_refused():
    with pytest.raises(ValueError, match=r"speed \[3.0\]"):
        Augmentation(speed=[3.0])
    with pytest.raises(ValueError, match=r"time_width 2"):
        Augmentation(time_width=2)
