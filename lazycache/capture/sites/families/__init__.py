"""The families that lazycache knows: tables of data, one module for each sort of model."""

from __future__ import annotations

from lazycache.capture.sites.families import decoder_only, encoders, mixtures, seq2seq, vision
from lazycache.capture.sites.family import Family

FAMILIES: tuple[Family, ...] = (
    *decoder_only.FAMILIES,
    *mixtures.FAMILIES,
    *encoders.FAMILIES,
    *seq2seq.FAMILIES,
    *vision.FAMILIES,
)
"""All families, in the order in which they are tried."""
