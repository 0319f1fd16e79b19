"""Isolated environments: conda packages, wheels, and generations. Nothing here knows an engine."""
