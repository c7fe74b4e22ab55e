"""Audio files to samples, and samples to log-mel frames."""
