"""Deep generative models for out-of-distribution detection, trained, scored and compared in one place."""

__version__ = "0.1.0"
