"""Bridges to other libraries, each an extra, imported by nothing else here."""
