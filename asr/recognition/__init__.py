"""A trained model at work: evaluation, transcription, tuning of the search."""
