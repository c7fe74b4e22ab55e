"""MinGRU encoder: a gated recurrence that trains in parallel."""

from asr.encoders.minimal import MinGRUCell, MinimalBlock
from asr.encoders.stack import Stack


class MinGRU(Stack):
    """Subsampling, then layers of a minimal recurrence and a feed-forward, then a norm.

    The counter-example to "recurrence cannot be parallelised" (Feng et al. 2024): two products
    of the input per frame, none of the state.
    """

    remedy = "set bidirectional: false"

    def __init__(
        self,
        num_mels: int,
        *,
        dim: int,
        layers: int,
        bidirectional: bool = True,
        expansion: int = 2,
        feedforward: int = 2,
        dropout: float = 0.1,
        forget_bias: float = 1.0,
        channels: int = 32,
    ) -> None:
        """Builds the encoder.

        Args:
            num_mels: mel bins F.
            dim: width D.
            layers: pairs of recurrence and feed-forward.
            bidirectional: whether the future is seen too; without, the encoder is causal.
            expansion: cells of the recurrence, in multiples of dim; two directions share them.
            feedforward: inner width of the feed-forward, in multiples of dim.
            dropout: probability, on what each block adds and inside feed-forwards.
            forget_bias: initial bias of the gates that keep the state.
            channels: channels of the subsampling convolutions.

        Raises:
            ValueError: two directions cannot share the cells equally.
        """
        blocks = (
            MinimalBlock(
                dim,
                cell=MinGRUCell,
                bidirectional=bidirectional,
                expansion=expansion,
                feedforward=feedforward,
                dropout=dropout,
                forget_bias=forget_bias,
            )
            for _ in range(layers)
        )
        super().__init__(num_mels, blocks, dim=dim, channels=channels)
