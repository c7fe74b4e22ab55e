"""Transcripts: normalisers, tokenizers and errors of words."""
