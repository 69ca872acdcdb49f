"""lazycache: the activation database for interpretability research."""

__version__ = "0.1.0"
