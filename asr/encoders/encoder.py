"""The interface of encoders: feature frames in, encoder frames out, unaffected by padding."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

EncoderState = dict[str, Tensor]


class Encoder(nn.Module, ABC):
    """Maps feature frames to encoder frames.

    A subclass takes ``num_mels`` as its first, positional parameter and everything else as
    keywords, which are the keys of a recipe. The output for an utterance depends neither on the
    other utterances of its batch nor on the values in its padding.

    Attributes:
        dim: width D of the output.
        stride: number of feature frames per encoder frame.
        causal: whether the encoder can stream: encoder frame s depends only on feature frames
            before the end of its chunk. In a strictly causal encoder, these are the feature frames
            before (s + 1) * stride.
    """

    dim: int
    stride: int
    causal: bool

    @property
    def chunk(self) -> int:
        """Number of feature frames in a chunk; ``step`` takes whole chunks."""
        return self.stride

    @abstractmethod
    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes features (B, T, F) of (B,) lengths as frames (B, S, D) with S = ceil(T / stride).

        Output lengths are ceil(lengths / stride); the longest of them equals S when the longest
        input fills T. Frames beyond an utterance's length are zero.
        """

    @abstractmethod
    def initial_state(self, batch: int) -> EncoderState:
        """The state before the first frame, for streaming a causal encoder.

        Raises:
            ValueError: the encoder is not causal.
        """

    @abstractmethod
    def step(self, x: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """Encodes (B, C, F) new feature frames, where C is a multiple of chunk.

        Returns (B, C / stride, D) encoder frames and the next state.

        The outputs for consecutive chunks equal the output of ``forward`` for the whole utterance.

        Raises:
            ValueError: C is not a multiple of chunk.
        """

    def regions(self) -> list[nn.Module]:
        """The modules that ``torch.compile`` compiles separately."""
        return [self]

    @abstractmethod
    def flops(self, lengths: Sequence[int]) -> int:
        """FLOPs of one forward pass over utterances of these feature lengths, without padding.

        One multiplication and one addition are 2 FLOPs. Matrix products, convolutions, attention
        and recurrent kernels count; elementwise operations do not.
        """


def state_bytes(state: EncoderState) -> int:
    """Returns the size of a state of ``Encoder.step`` in bytes, summed over its utterances."""
    return sum(value.numel() * value.element_size() for value in state.values())
