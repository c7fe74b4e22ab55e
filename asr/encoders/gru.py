"""Stacked GRU encoder (Cho et al. 2014): bidirectional, causal, or pyramidal."""

from torch import nn

from asr.encoders.recurrent import recurrent_blocks
from asr.encoders.stack import Stack


class GRU(Stack):
    """Subsampling, then layers of x + projection(GRU(norm(x))), then a norm.

    As the ``LSTM`` encoder, with three gates for four. torch has no fused GRU for CPUs: there it
    is slower than the LSTM, which has one.
    """

    remedy = "set bidirectional: false"

    def __init__(
        self,
        num_mels: int,
        *,
        dim: int,
        layers: int,
        bidirectional: bool = True,
        cells: int = 0,
        time_reduction: list[int] = [],  # noqa: B006  (as it stands in a recipe; never changed)
        dropout: float = 0.1,
        forget_bias: float = 1.0,
        channels: int = 32,
    ) -> None:
        """Builds the encoder.

        Args:
            num_mels: mel bins F.
            dim: width D of the output and of the path between layers.
            layers: GRU layers.
            bidirectional: whether the future is seen too; without, the encoder is causal.
            cells: hidden units per direction; what they put out is projected to ``dim`` where the
                two differ in width. 0: dim, or dim / 2 per direction of a bidirectional one.
            time_reduction: after each of these layers (1 is the first) two frames become one.
            dropout: probability, on each layer's output.
            forget_bias: initial bias of the update gates, which keep the state where they are 1.
            channels: channels of the subsampling convolutions.

        Raises:
            ValueError: odd ``dim`` for two directions, or no such layer in ``time_reduction``.
        """
        blocks = recurrent_blocks(
            nn.GRU, dim, layers, bidirectional, cells, time_reduction, dropout, forget_bias
        )
        super().__init__(num_mels, blocks, dim=dim, channels=channels)
