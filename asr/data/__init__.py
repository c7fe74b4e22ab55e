"""Makes batches from prepared corpora and texts."""
