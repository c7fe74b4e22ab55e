"""Speech-to-text training with interchangeable encoders, and what each of them costs."""

__version__ = "0.1.0"
