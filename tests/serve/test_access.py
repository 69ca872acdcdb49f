import pytest
from page_helpers import HERE, Tags, client

from lazycache.errors import QueryError, StorageError
from lazycache.samples import small_cache
from lazycache.serve.running import address, bound, check_open_to, names_of

ADDRESS = "/sql?q=SELECT+row+FROM+tokens"


@pytest.fixture(scope="module")
def cache():
    return small_cache()


def test_without_the_token_a_page_says_what_to_do_and_nothing_of_the_dataset(cache):
    """Who has no token gets a page that says where the link is, and no word of the dataset."""
    answer = client(cache, token="secret").get(ADDRESS)
    assert answer.status_code == 403
    assert "Open the link that `lazycache serve` printed" in answer.text
    assert "acts" not in answer.text
    assert "resid_out_0" not in answer.text


def test_the_first_visit_leads_to_the_address_without_the_token(cache):
    """The token is taken out of the address, a cookie that no script reads stands for it."""
    browser = client(cache, token="secret")
    first = browser.get(f"{ADDRESS}&token=secret", follow_redirects=False)
    assert (first.status_code, first.headers["location"]) == (303, ADDRESS)
    said = first.headers["set-cookie"]
    assert "HttpOnly" in said
    assert "SameSite=strict" in said
    assert "secret" not in said
    assert browser.get(ADDRESS).status_code == 200


@pytest.mark.parametrize("token", ["", "secre", "secret2", "é"])
def test_another_token_is_refused(cache, token):
    """A wrong token is no cookie and no page, whatever letters it has."""
    answer = client(cache, token="secret").get("/", params={"token": token})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert "not that of this explorer" in answer.text


def test_a_cookie_of_another_explorer_lets_nobody_in(cache):
    """Ports share cookies: that of an explorer with another token is not taken."""
    other = client(cache, token="other")
    other.get("/?token=other")
    mine = client(cache, token="secret")
    mine.cookies = other.cookies
    assert mine.get("/").status_code == 403
    assert mine.get("/", headers={"cookie": "a=\x01;;=="}).status_code == 403


def test_cookies_of_others_lock_nobody_out(cache):
    """Whatever else this machine's servers have left, the cookie of this explorer is found."""
    browser = client(cache, token="secret")
    first = browser.get("/?token=secret", follow_redirects=False)
    name, _, value = first.headers["set-cookie"].partition(";")[0].partition("=")
    for others in ('a={"x": "y, z"}; ', "b c; =d; ", f"{name}=old; "):
        found = client(cache, token="secret").get(
            "/", headers={"cookie": f"{others}{name}={value}; e=f"}
        )
        assert found.status_code == 200


def test_the_token_never_leads_to_another_site(cache):
    """An address that begins with two slashes would be a host to a browser: it gets one."""
    answer = client(cache, token="secret").get(
        f"{HERE}//evil.example/?token=secret", follow_redirects=False
    )
    assert answer.headers["location"] == "/evil.example/"


@pytest.mark.parametrize("path", ["//evil.example", "/%5Cevil.example", "/%09/evil.example"])
def test_the_page_that_refuses_leads_to_no_other_site(cache, path):
    """The link on it stays here, however the path was spelled: browsers read other signs as a /."""
    page = Tags(client(cache, token="secret").get(f"{HERE}{path}").text)
    (again,) = [one["href"] for one in page.all("a") if "evil" in one["href"]]
    assert again in {"/evil.example", "/%5Cevil.example", "/%09/evil.example"}


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "127.0.0.1.evil.example:8765", ""),
        # what would be read as another path, or cannot be read at all
        *(
            "127.0.0.1:1/static/?",
            "127.0.0.1/static/#",
            "localhost:1@evil.example",
            "[::1",
            "[::1]e",
        ),
    ],
)
def test_another_name_of_this_machine_is_refused(cache, host):
    """A page whose name was turned to this machine (DNS rebinding) gets nothing, token or not."""
    answer = client(cache).get("/", headers={"host": host})
    assert answer.status_code == 421
    assert "127.0.0.1 or ::1 or localhost" in answer.text


def test_the_names_of_this_machine_are_taken(cache):
    """Loopback is asked for by any of its names, at any port."""
    for host in ("localhost:8765", "127.0.0.1:1", "[::1]:8765", "LOCALHOST"):
        assert client(cache).get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_pages_ask_nothing_but_may_link(cache, site):
    """What a page elsewhere, or at another port, embeds is refused; its links may be followed."""
    headers = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
    assert client(cache).get(ADDRESS, headers=headers).status_code == 403
    headers["sec-fetch-mode"] = "navigate"
    assert client(cache).get(ADDRESS, headers=headers).status_code == 200


def test_only_looking_is_possible(cache):
    """Nothing is ever posted to an explorer."""
    for method in ("POST", "PUT", "DELETE"):
        assert client(cache).request(method, ADDRESS).status_code == 405


def test_no_token_is_for_this_machine_alone():
    """A dataset is not shown to a network without a token."""
    check_open_to("127.0.0.1", "")
    check_open_to("0.0.0.0", None)
    with pytest.raises(QueryError, match=r"everybody who reaches 0\.0\.0\.0 could read"):
        check_open_to("0.0.0.0", "")


def test_a_host_of_its_own_is_asked_for_by_its_name():
    """Of all addresses of a machine any name is taken; of one its name and those of loopback."""
    assert names_of("::") is None
    assert "data.example" in names_of("Data.example")
    assert "localhost" in names_of("::1")
    assert address("data.example", 80, "t") == "http://data.example:80/?token=t"


def test_a_taken_port_is_said():
    """Who asks for a port that is taken is told of it; who asks for none gets the next."""
    with bound("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StorageError, match=rf"Port {port} is taken on 127\.0\.0\.1"):
            bound("127.0.0.1", port)
    with pytest.raises(StorageError, match=r"Cannot listen on no\.such\.host\.invalid:0"):
        bound("no.such.host.invalid", 0)
