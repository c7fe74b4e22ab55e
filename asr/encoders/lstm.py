"""Stacked LSTM encoder: bidirectional, causal, or pyramidal (Chan et al. 2016)."""

from torch import nn

from asr.encoders.recurrent import recurrent_blocks
from asr.encoders.stack import Stack


class LSTM(Stack):
    """Subsampling, then layers of x + projection(LSTM(norm(x))), then a norm.

    Bidirectional, or causal when ``bidirectional`` is false. With ``time_reduction`` it is the
    pyramid of Listen, Attend and Spell.
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
            layers: LSTM layers.
            bidirectional: whether the future is seen too; without, the encoder is causal.
            cells: memory cells per direction; what they put out is projected to ``dim`` where the
                two differ in width. 0: dim, or dim / 2 per direction of a bidirectional one.
            time_reduction: after each of these layers (1 is the first) two frames become one.
            dropout: probability, on each layer's output.
            forget_bias: initial bias of the forget gates.
            channels: channels of the subsampling convolutions.

        Raises:
            ValueError: odd ``dim`` for two directions, or no such layer in ``time_reduction``.
        """
        blocks = recurrent_blocks(
            nn.LSTM, dim, layers, bidirectional, cells, time_reduction, dropout, forget_bias
        )
        super().__init__(num_mels, blocks, dim=dim, channels=channels)
