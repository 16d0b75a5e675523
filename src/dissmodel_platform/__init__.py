"""DisSModel Platform: run, cite and reproduce published spatial simulation models."""

__version__ = "0.1.0"
