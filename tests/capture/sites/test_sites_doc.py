"""The reference page of the sites says what the tables of the code say."""

import sites_table

from lazycache.capture.sites.names import CANONICAL


def test_the_page_is_what_the_table_of_families_gives():
    """docs/reference/sites.md is up to date: `python tests/sites_table.py` writes it."""
    assert sites_table.PAGE.read_text(encoding="utf-8") == sites_table.page()


def test_every_canonical_site_is_defined():
    """No site is without a meaning, and none is explained that there is not."""
    assert {name.removesuffix("_L") for name in sites_table.SITES} == set(CANONICAL)
