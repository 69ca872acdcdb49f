"""Which failures pass by themselves, and what nobody may read of them."""

import errno

import pytest

from lazycache.errors import StorageError
from lazycache.storage.failures import explained
from lazycache.storage.retrying import Patience, RetryingStore, is_transient, patiently
from lazycache.storage.secrets import Secrets, shown_url
from lazycache.storage.transience import number_of


class OfServer(OSError):  # noqa: N818 - short, it is in every line below
    """An error with an HTTP status, as drivers have it in four places."""

    def __init__(self, status, *, at="response"):
        super().__init__(f"HTTP {status}")
        if at == "response":
            self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}
        else:
            setattr(self, at, status)


class IncompleteRead(Exception):  # noqa: N818 - as http.client and urllib3 call it
    """A body that ended early, of some library."""


def caused_by(cause):
    error = OSError(errno.EIO, "wrapped")
    error.__cause__ = cause
    return error


PASSING = {
    "timeout": TimeoutError(),
    "reset": ConnectionResetError(),
    "refused": OSError(errno.ECONNREFUSED, "refused"),
    "body": IncompleteRead(),
    "body below": caused_by(IncompleteRead()),
    "500": OfServer(500),
    "503 below": caused_by(OfServer(503)),
    "429": OfServer(429, at="status"),
    "408": OfServer(408, at="status_code"),
    "gcs": OfServer("502", at="code"),
}
LASTING = {
    "disk": OSError(errno.ENOSPC, "full"),
    "device": OSError(errno.EIO, "broken"),
    "rights": PermissionError("no"),
    "403": OfServer(403),
    "404": OfServer(404, at="status"),
    "412": OfServer(412, at="status_code"),
    "409 below": caused_by(OfServer(409)),
    "400": OfServer(400),
    "501": OfServer(501),
}


@pytest.mark.parametrize("name", [*PASSING, *LASTING])
def test_what_passes_and_what_lasts(name):
    """Timeouts, lost connections, throttling and 5xx pass; missing rights and full disks do not."""
    error = {**PASSING, **LASTING}[name]
    number = number_of(error)
    assert is_transient(StorageError(number or 0, "x")) is (name in PASSING)


def test_a_failure_is_tried_until_it_passes():
    """As often as it fails transiently; the first lasting failure ends it."""
    calls = []

    def call(fail):
        calls.append(fail)
        if len(calls) < 4:
            raise StorageError(fail, "not now")
        return "done"

    assert patiently(lambda: call(errno.ECONNRESET), patience=Patience(30, 0.001)) == "done"
    assert len(calls) == 4
    calls.clear()
    with pytest.raises(StorageError, match="not now"):
        patiently(lambda: call(errno.ENOSPC), patience=Patience(30, 0.001))
    assert len(calls) == 1


def test_pauses_grow_to_a_limit_with_jitter(monkeypatch):
    """Each pause is a random part of at most twice the one before, until the deadline."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    longest, pauses = 0.05, []
    for pause in Patience(60).pauses():
        left = 60 - now[0]
        assert min(left, longest / 2) <= pause <= longest
        pauses.append(pause)
        now[0] += pause
        longest = min(8.0, 2 * longest)
    assert now[0] == pytest.approx(60)
    assert len(set(pauses)) == len(pauses)


def test_only_what_may_be_done_twice_is_tried_again():
    """Creating what must not exist is tried once: a second answer would be about the first."""
    calls = []

    class Away:
        url = "s3://away"

        def __getattr__(self, name):
            def call(*_):
                calls.append(name)
                raise StorageError(errno.ETIMEDOUT, "late")

            return call

    store = RetryingStore(Away(), patience=Patience(0.02, 0.001))
    for name, again in [
        ("get", True),
        ("size", True),
        ("exists", True),
        ("delete", True),
        ("put", True),
        ("get_ranges", True),
        ("put_if_absent", False),
    ]:
        calls.clear()
        with pytest.raises(StorageError, match="late"):
            getattr(store, name)(
                "a",
                *([b""] if name.startswith("put") else []),
                *([[(0, 1)]] if name == "get_ranges" else []),
            )
        assert (len(calls) > 1) is again, name
    calls.clear()
    with pytest.raises(StorageError, match="late"):
        list(store.list(""))
    assert len(calls) > 1


@pytest.mark.parametrize("said", ["soon", "-1", "nan", "inf"])
def test_a_deadline_that_is_no_number_is_refused(monkeypatch, said):
    """The variable is named, and what it said."""
    monkeypatch.setenv("LAZYCACHE_DEADLINE_SECONDS", said)
    with pytest.raises(StorageError, match=f"LAZYCACHE_DEADLINE_SECONDS='{said}'"):
        Patience.of_environment()


def test_no_error_tells_a_secret(monkeypatch):
    """Not of the address, of options at any depth, of the environment; nor do its causes."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-environment")
    options = {"key": "of-options", "client_kwargs": {"headers": {"Authorization": "of-header"}}}
    secrets = Secrets("https://me:of%2Duser@host/d?sig=of-query", options)
    words = ["of-environment", "of-options", "of-header", "of%2Duser", "of-user", "of-query"]
    for word in words:
        with pytest.raises(StorageError) as caught:
            with explained("read", url="u", path="p", missing_ok=True, secrets=secrets):
                try:
                    int(f"inside {word}")
                except ValueError as exc:
                    raise OSError(errno.EIO, f"outside {word}") from exc
        shown = f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
        assert word not in shown, word
        assert caught.value.__suppress_context__
        assert "***" in shown
    assert repr(secrets) == "Secrets()"


def test_containers_before_an_at_are_shown():
    """`abfs://container@account` is no password; with one, it is."""
    assert shown_url("abfs://c@a.host/d") == "abfs://c@a.host/d"
    assert shown_url("abfs://me:pass@a.host/d") == "abfs://a.host/d"
