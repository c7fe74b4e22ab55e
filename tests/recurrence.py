"""What torch itself offers for utterances of different lengths, to compare with."""

from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def packed(recurrence, x, lengths):
    """(B, S, D), (B,) -> (B, S, cells * directions): one call over the real frames only."""
    sequence = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
    y, _ = recurrence(sequence)
    return pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0]
