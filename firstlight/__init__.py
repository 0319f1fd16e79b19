"""firstlight: from a bare machine to the first token of a local LLM."""

__version__ = "0.1.0"
