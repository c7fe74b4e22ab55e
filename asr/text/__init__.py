"""Transcripts: normalisers, tokenizers, and word and character errors."""
