"""Questions over activations: SQL with activations as lazy columns."""
