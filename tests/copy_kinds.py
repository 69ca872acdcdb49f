"""Ways to copy a dataset, by turns, for tests that kill copies."""

KINDS = ({}, {"sites": ["resid_out_0", "pooled"]}, {"where": "position > 0"})
