"""Other tools that run a model or read what it stored."""
