"""Two sites, or one site of two models."""
