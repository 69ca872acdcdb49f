"""The explorer of a dataset in a bucket of a real S3 server."""

import pytest
from page_helpers import client

import lazycache as lc

PATHS = (
    "/overview/norms",
    "/overview/samples",
    "/unit?site=mlp_act_0&unit=1",
    "/unit/neighbours?site=mlp_act_0&unit=1",
    "/example",
    "/example?example=2&run=main&site=mlp_act_0&unit=1",
    "/sql?q=SELECT+unit(mlp_act_0,1)+FROM+tokens+ORDER+BY+row+LIMIT+3",
)


@pytest.mark.slow
def test_pages_of_a_bucket_are_those_of_a_disk(odd, pages, s3):
    """Every page answers; rows, texts and numbers of a unit are those of the dataset on a disk."""
    lc.copy(odd.url, s3.url(), dst_options=s3.storage_options, progress=False)
    with lc.open(s3.url(), storage_options=s3.storage_options) as far:
        browser = client(far)
        assert browser.get("/").status_code == 200
        for path in PATHS:
            assert browser.get(path).status_code == pages.get(path).status_code == 200, path
        for path in (PATHS[3], PATHS[5]):
            here, there = pages.get(path).text, browser.get(path).text
            assert there.split("<main")[-1] == here.split("<main")[-1], path
        best = "/example?example=2&amp;run=main&amp;site=mlp_act_0&amp;unit=1"
        assert best in browser.get(PATHS[2]).text
        assert far.io.requests > 0
