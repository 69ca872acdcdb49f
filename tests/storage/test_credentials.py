"""Credentials stay where they were given: nothing that is written or shown holds one."""

import pytest
import torch
from dataset_helpers import gpt2

import lazycache as lc
from lazycache.errors import LazycacheError
from lazycache.storage.open_store import open_store


def test_nothing_written_holds_a_credential(s3, own_cache_directory, capsys, recwarn, monkeypatch):
    """A capture to a bucket, a read and failures: secrets are in no object, index or message.

    Neither those of options and addresses, nor those of the environment.
    """
    options = s3.storage_options | {"client_kwargs": {"region_name": "us-east-1"}}
    model = gpt2()
    with lc.capture(model, s3.url(), "resid_out_0", storage_options=options) as run:
        model(torch.tensor([[1, 2, 3]]))
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    with lc.capture(model, s3.url(), "resid_out_0", resume=True) as run:
        model(torch.tensor([[1, 2, 3]]))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-3")
    cache = lc.open(s3.url(), storage_options=options)
    assert cache["resid_out_0"].rows.shape[0] == 6
    cache.sql("select count(*) from tokens")
    said = [repr(cache), repr(cache._sites) if hasattr(cache, "_sites") else "", str(run)]
    for url, wrong in [
        (s3.url(), options | {"secret": "wrong-secret-1"}),
        (s3.url().replace("s3://", "s3://me:wrong-secret-2@"), options),
        (s3.url("none"), options),
        (s3.url(), {"skip_instance_cache": True}),
    ]:
        with pytest.raises(LazycacheError) as caught:
            lc.open(url, storage_options=wrong)
        error = caught.value
        while error is not None:
            said.append(f"{error} {error!r}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    store = open_store(s3.url(), create=False, storage_options=options)
    written = [store.get(info.path) for info in store.list("")]
    kept = [path.read_bytes() for path in own_cache_directory.rglob("*") if path.is_file()]
    shown = capsys.readouterr()
    said += [shown.out, shown.err, *(str(warning.message) for warning in recwarn)]
    assert len(written) > 4
    wrong = [f"wrong-secret-{number}" for number in (1, 2, 3)]
    for secret in (options["secret"], options["key"], *wrong):
        assert not any(secret.encode() in data for data in [*written, *kept])
        assert not any(secret in text for text in said)
