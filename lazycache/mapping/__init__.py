"""`ActivationCache`: a mapping that does what easyroutine's cache does."""
