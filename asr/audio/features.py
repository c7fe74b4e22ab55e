"""Log-mel features of waveforms on the model's device, and the augmentation of both.

All constants of the front end are derived here from the sample rate, by exact arithmetic.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.batch import Share, mask
from asr.kernels.torchaudio_functional import resample

WINDOW_SECONDS = (25, 1000)  # 25 ms as a fraction, so that samples per window are exact
HOP_SECONDS = (10, 1000)
LOWEST_HERTZ = 20.0
NOISE_SEED = 15_485_863  # distance between the seeds of the noise of two rows
FLOOR = 1e-6  # power below which a mel bin counts as silent; keeps the logarithm finite


def samples(seconds: tuple[int, int], sample_rate: int) -> int:
    """Returns the samples in a fraction of a second; raises ValueError if they are not whole."""
    number, rest = divmod(seconds[0] * sample_rate, seconds[1])
    if rest:
        raise ValueError(
            f"sample_rate {sample_rate}: {seconds[0]} ms are not a whole number of samples; "
            "use a multiple of 200 Hz, for instance 8000 or 16000"
        )
    return number


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """The keys of ``features`` in a recipe.

    Args:
        sample_rate: sample rate in Hz to which audio is resampled.
        num_mels: number of mel bins between 20 Hz and half the sample rate.
    """

    sample_rate: int = 16000
    num_mels: int = 80


class LogMel(nn.Module):
    """Log-mel energies, normalised by a constant mean and deviation per bin.

    Frame t depends only on samples [t * hop, t * hop + window): there is no centring, reflection or
    statistic over the utterance. Padding and later samples therefore cannot change a frame. The two
    constants per bin are measured once on training data and belong to the model.
    """

    mean: Tensor
    deviation: Tensor
    filters: Tensor
    hann: Tensor

    def __init__(self, *, sample_rate: int = 16000, num_mels: int = 80):
        super().__init__()
        self.sample_rate, self.num_mels = sample_rate, num_mels
        self.window = samples(WINDOW_SECONDS, sample_rate)
        self.hop = samples(HOP_SECONDS, sample_rate)
        self.num_fft = 2 ** math.ceil(math.log2(self.window))
        filters = _mel_filters(self.num_fft, num_mels, sample_rate)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("hann", torch.hann_window(self.window), persistent=False)
        self.register_buffer("mean", torch.zeros(num_mels))
        self.register_buffer("deviation", torch.ones(num_mels))

    @property
    def hop_seconds(self) -> float:
        """Returns the time from one frame to the next in seconds."""
        return self.hop / self.sample_rate

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Counts the frames of (B,) samples: at least one, because short audio is padded."""
        return ((num_samples - self.window).clamp(min=0) // self.hop) + 1

    def forward(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Computes normalised features (B, T, F) float32 and their lengths from (B, N) samples."""
        with torch.autocast(waves.device.type, enabled=False):
            x = (self.log_mel(waves, lengths) - self.mean) / self.deviation
        frames = self.num_frames(lengths)
        return x.masked_fill(~mask(frames, x.shape[1])[..., None], 0.0), frames

    def log_mel(self, waves: Tensor, lengths: Tensor) -> Tensor:
        """Computes (B, T, F) features without normalisation; the padding holds log(FLOOR)."""
        waves = waves.float().masked_fill(~mask(lengths, waves.shape[1]), 0.0)
        waves = F.pad(waves, (0, max(0, self.window - waves.shape[1])))
        frames = waves.unfold(1, self.window, self.hop) * self.hann  # (B, T, window)
        power = torch.fft.rfft(frames, n=self.num_fft).abs().square()  # (B, T, num_fft / 2 + 1)
        return torch.log(power @ self.filters + FLOOR)

    @torch.no_grad()
    def fit(self, waves: Iterable[Tensor]) -> None:
        """Measures mean and deviation per bin over waveforms (N,), summed in float64."""
        total, square = torch.zeros(2, self.num_mels, dtype=torch.float64).unbind()
        count = 0
        for wave in waves:
            x = self.log_mel(wave[None], torch.tensor([len(wave)]))[0].double()  # (T, F)
            total, square, count = total + x.sum(0), square + x.square().sum(0), count + len(x)
        if not count:
            raise ValueError("the training split is empty: there is no audio to normalise by")
        mean = total / count
        self.mean.copy_(mean)
        self.deviation.copy_((square / count - mean.square()).clamp(min=1e-4).sqrt())


def _mel_filters(num_fft: int, num_mels: int, sample_rate: int) -> Tensor:
    """Returns triangular filters (num_fft / 2 + 1, F) on the HTK mel scale."""
    hertz = torch.linspace(0, sample_rate / 2, num_fft // 2 + 1, device="cpu")
    edges = torch.linspace(_mel(LOWEST_HERTZ), _mel(sample_rate / 2), num_mels + 2, device="cpu")
    edges = 700 * (10 ** (edges / 2595) - 1)
    rising = (hertz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz[:, None]) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    if (filters.sum(0) == 0).any():
        raise ValueError(
            f"num_mels {num_mels} is too many for sample_rate {sample_rate}: some filters hold no "
            "frequency; use fewer"
        )
    return filters


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The keys of ``augmentation`` in a recipe: training only, seeded by the batch and the row.

    Everything but the noise itself is drawn on the CPU, so every device applies the same masks. An
    utterance meets the same augmentation for any number of processes that share its batch.

    Args:
        speed: speed factors, of which one is drawn for each batch (Ko et al. 2015); [1.0] turns it
            off.
        noise_probability: probability that white noise is added to an utterance.
        noise_snr_db: lowest and highest signal-to-noise ratio in decibels.
        frequency_masks: number of SpecAugment masks over mel bins (Park et al. 2019).
        frequency_width: largest share of the bins that one mask hides.
        time_masks: number of SpecAugment masks over time.
        time_width: largest share of an utterance's frames that one mask hides.
        from_share: share of the budget before which there is neither augmentation nor dropout. A
            model learns faster at first without them, and overfits later without them.
    """

    speed: list[float] = field(default_factory=lambda: [1.0])
    noise_probability: float = 0.0
    noise_snr_db: tuple[float, float] = (10.0, 30.0)
    frequency_masks: int = 0
    frequency_width: float = 0.3
    time_masks: int = 0
    time_width: float = 0.05
    from_share: float = 0.0

    def __post_init__(self) -> None:
        if not self.speed or min(self.speed) < 0.5 or max(self.speed) > 2:
            raise ValueError(f"augmentation.speed {self.speed}: give factors between 0.5 and 2")
        for name in ("noise_probability", "frequency_width", "time_width", "from_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation.{name} {getattr(self, name)}: a share of 0 to 1")
        for name in ("frequency_masks", "time_masks"):
            if getattr(self, name) < 0:
                raise ValueError(f"augmentation.{name} {getattr(self, name)}: expects 0 or more")

    def perturb(
        self,
        waves: Tensor,
        lengths: Tensor,
        sample_rate: int,
        seed: int,
        share: Share | None = None,
        num_samples: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Changes the speed, then adds noise: (B, N), (B,) -> (B, N'), (B,).

        ``share`` names the rows if they are only a part of their batch. ``num_samples`` are the B
        lengths on the host; without them, noise waits for a GPU to read ``lengths``.
        """
        sizes = lengths if num_samples is None else torch.tensor(num_samples)
        draw = torch.Generator().manual_seed(seed)
        factor = self.speed[int(torch.randint(len(self.speed), (), generator=draw))]
        if factor != 1:
            waves = waves.masked_fill(~mask(lengths, waves.shape[1]), 0.0)
            heard, wanted = round(sample_rate * factor), sample_rate
            divisor = math.gcd(heard, wanted)
            waves = resample(waves, heard // divisor, wanted // divisor)
            sizes = (sizes * (wanted // divisor) / (heard // divisor)).ceil().long()
            lengths = sizes.to(waves.device, non_blocking=True)
        if self.noise_probability:
            waves = self._noise(waves, lengths, sizes, draw, share or _all_rows(waves))
        return waves, lengths

    def _noise(
        self, waves: Tensor, lengths: Tensor, sizes: Tensor, draw: torch.Generator, share: Share
    ) -> Tensor:
        """Adds noise to waves; ``sizes`` are ``lengths`` in the memory of the host, if known."""
        low, high = self.noise_snr_db
        device = waves.device
        total, rows = share.total, share.rows
        chosen = (torch.rand(total, generator=draw) < self.noise_probability)[rows]  # (B,)
        decibels = low + (high - low) * torch.rand(total, generator=draw)[rows]  # (B,)
        real = mask(lengths, waves.shape[1])
        power = (waves.square() * real).sum(1) / lengths.clamp(min=1)  # (B,)
        scale = (power * 10 ** (-decibels.to(device, non_blocking=True) / 10)).sqrt()
        noise = torch.zeros_like(waves)
        # The noise of a row depends neither on the other rows nor on the padding.
        ends = sizes.tolist()
        for place in chosen.nonzero()[:, 0].tolist():
            number = draw.initial_seed() + NOISE_SEED * (1 + rows[place])
            on_device = torch.Generator(device).manual_seed(number)
            row = noise[place, : ends[place]]
            row.copy_(torch.randn(len(row), generator=on_device, device=device))
        return waves + noise * scale[:, None]

    def spec_augment(
        self, x: Tensor, lengths: Tensor, seed: int, share: Share | None = None
    ) -> Tensor:
        """Sets bands of bins and bands of frames of (B, T, F) features to 0, their mean.

        ``share`` names the rows if they are only a part of their batch.
        """
        T, bins = x.shape[1:]
        share = share or _all_rows(x)
        draw = torch.Generator().manual_seed(seed)
        sizes = torch.full((len(x),), bins, device=x.device)
        frequency = self.frequency_masks, self.frequency_width
        hidden = _bands(sizes, bins, *frequency, draw, share)[:, None, :]
        times = _bands(lengths, T, self.time_masks, self.time_width, draw, share)[:, :, None]
        return x.masked_fill(hidden | times, 0.0)


def _all_rows(x: Tensor) -> Share:
    """Returns the share (B, ...) of a process that trains on the whole batch."""
    rows = list(range(len(x)))
    return Share(rows, rows, len(x))


def _bands(
    sizes: Tensor, length: int, number: int, width: float, draw: torch.Generator, share: Share
) -> Tensor:
    """Draws (B, length) bool masks: the union of ``number`` random bands inside each of (B,) sizes.

    The bands are drawn on the CPU, to be equal for every device, and made on that of ``sizes``.
    """
    drawn = torch.rand(2, share.total, number, generator=draw)[:, share.rows]
    shares = drawn.to(sizes.device, non_blocking=True)  # (2, B, number)
    widths = shares[0] * width * sizes[:, None]  # (B, number)
    starts = shares[1] * (sizes[:, None] - widths)
    at = torch.arange(length, device=sizes.device)[None, None]  # (1, 1, length)
    inside = (at >= starts[..., None].round()) & (at < (starts + widths)[..., None].round())
    return inside.any(1)
