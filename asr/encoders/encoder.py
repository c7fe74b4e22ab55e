"""The interface of encoders: feature frames in, encoder frames out, unaffected by padding."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

EncoderState = dict[str, Tensor]


class Encoder(nn.Module, ABC):
    """Features in, encoder frames out.

    A subclass takes ``num_mels`` as its first, positional parameter and everything else as
    keywords, which are the keys of a recipe. The output for an utterance does not depend on what
    it is batched with, nor on what stands in its padding.

    Attributes:
        dim: width D of the output.
        stride: feature frames per encoder frame.
        causal: whether encoder frame s depends on feature frames before the end of its chunk
            only, with strictly causal encoders on those before (s + 1) * stride; it can stream.
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
        """(B, T, F), (B,) -> (B, S, D), (B,) with S = ceil(T / stride).

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
        """(B, C, F) new feature frames, C a multiple of chunk -> (B, C / stride, D), next state.

        The outputs for consecutive chunks equal the output of ``forward`` for the whole utterance.

        Raises:
            ValueError: C is no multiple of chunk.
        """

    def regions(self) -> list[nn.Module]:
        """The modules that ``torch.compile`` compiles separately."""
        return [self]

    @abstractmethod
    def flops(self, lengths: Sequence[int]) -> int:
        """FLOPs of one forward pass over utterances of these feature lengths, without padding.

        One multiplication and one addition are 2 FLOPs; matrix products, convolutions, attention
        and recurrent kernels count, elementwise work does not.
        """


def state_bytes(state: EncoderState) -> int:
    """Returns the size of a state of ``Encoder.step`` in bytes, summed over its utterances."""
    return sum(value.numel() * value.element_size() for value in state.values())
