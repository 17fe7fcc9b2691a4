import traceback
from base64 import b64decode
from collections.abc import Mapping
from enum import Enum
from typing import Any
from urllib.parse import unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phx_proto.endpoint import Address, Endpoint
from phx_proto.errors import InvalidEndpoint

SECRET = "s3cr3t"


def query(params: Any, url: str = "ws://h/s") -> str:
    """What is asked for, without the vsn that ends it."""
    found = Endpoint(url, params=params).request("2.0.0", params).url.partition("?")[2]
    assert found.endswith("vsn=2.0.0")
    return found.removesuffix("vsn=2.0.0").removesuffix("&")


def problem(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(InvalidEndpoint) as caught:
        Endpoint(*args, **kwargs)
    return str(caught.value)


# ---- the URL


@pytest.mark.parametrize(
    ("url", "opened"),
    [
        ("ws://host/socket", "ws://host/socket/websocket"),
        ("wss://host/socket", "wss://host/socket/websocket"),
        ("http://host/socket", "ws://host/socket/websocket"),
        ("https://host/socket", "wss://host/socket/websocket"),
        ("WSS://Example.COM/Socket", "wss://example.com/Socket/websocket"),
        ("ws://host:4000/socket", "ws://host:4000/socket/websocket"),
        ("ws://host:65535/socket", "ws://host:65535/socket/websocket"),
        ("ws://host:/socket", "ws://host/socket/websocket"),
        ("ws://127.0.0.1:4000/socket", "ws://127.0.0.1:4000/socket/websocket"),
        ("ws://[::1]:4000/socket", "ws://[::1]:4000/socket/websocket"),
        ("ws://my_service/socket", "ws://my_service/socket/websocket"),
        ("wss://bücher.example/socket", "wss://xn--bcher-kva.example/socket/websocket"),
        ("ws://host/socket/", "ws://host/socket/websocket"),
        ("ws://host/a/b/socket", "ws://host/a/b/socket/websocket"),
        ("ws://host/socket/websocket", "ws://host/socket/websocket"),
        ("ws://host/socket/websocket/", "ws://host/socket/websocket/"),
        ("ws://host/mywebsocket", "ws://host/mywebsocket/websocket"),
        ("ws://host", "ws://host/websocket"),
        ("ws://host/", "ws://host/websocket"),
        ("ws://host?a=1", "ws://host/websocket"),
        ("ws://host/caf%C3%A9/s", "ws://host/caf%C3%A9/s/websocket"),
        ("ws://host/café/{s}", "ws://host/caf%C3%A9/%7Bs%7D/websocket"),
    ],
)
def test_the_url_is_the_mount_of_a_socket(url: str, opened: str) -> None:
    endpoint = Endpoint(url)
    assert endpoint.redacted == opened
    assert endpoint.request("2.0.0").url.partition("?")[0] == opened


@pytest.mark.parametrize(
    ("host", "looked_up"),
    [
        ("faß.example", "xn--fa-hia.example"),  # IDNA 2003 goes to fass.example
        ("FAẞ.EXAMPLE", "xn--fa-hia.example"),
        ("βόλος.example", "xn--nxasmm1c.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("Bu\u0308cher.example", "xn--bcher-kva.example"),
        ("faß。example．com", "xn--fa-hia.example.com"),
        ("１２７.0.0.1", "127.0.0.1"),
        ("EXAMPLE.com", "example.com"),
        ("example.com.", "example.com."),
        ("faß.example.", "xn--fa-hia.example."),
        ("my_host", "my_host"),
        ("r3---sn-x.example", "r3---sn-x.example"),
        ("XN--FA-HIA.example", "xn--fa-hia.example"),
        ("[2001:DB8::1]", "[2001:db8::1]"),
        ("[fe80::1%25Eth0]", "[fe80::1%Eth0]"),
        ("[fe80::1%eth0]", "[fe80::1%eth0]"),
    ],
)
def test_a_host_is_looked_up_as_idna_2008_has_it(host: str, looked_up: str) -> None:
    assert Endpoint(f"wss://{host}:4000/socket").redacted == f"wss://{looked_up}:4000/socket/websocket"


SCHEME = "the URL must begin with ws://, wss://, http:// or https://"
HOST = "the URL has no valid host: it looks like wss://host:4000/socket"
PLACE = "the URL's host or port is not valid: it looks like wss://host:4000/socket"
FRAGMENT = "the URL has a fragment (#…), which no server ever sees: remove it, or write # as %23"
USER = "the URL holds a user or password, which would end up in logs: send an authorization header instead"
BLANK = "the URL holds whitespace or control characters: remove or percent-encode them"


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("", SCHEME),
        ("host/socket", f"{SCHEME}, not 'host/socket'"),
        ("host:4000/socket?token=s", f"{SCHEME}, not 'host:4000/socket'"),
        ("ftp://host/socket/s3cret", f"{SCHEME}, not 'ftp://host'"),
        ("ftp://ann:s3cret@host/socket", SCHEME),
        ("ws:///socket", HOST),
        ("ws://:4000/socket", HOST),
        ("ws://a%2fb/socket", HOST),
        ("ws://a\\b/socket", HOST),
        ("ws://a..b/socket", PLACE),
        ("ws://example../socket", PLACE),
        ("ws://./socket", PLACE),
        (f"ws://{'a' * 64}.example/socket", PLACE),
        (f"ws://{'a.' * 127}b/socket", PLACE),
        ("ws://-ß.example/socket", PLACE),
        ("ws://ß_.example/socket", PLACE),
        ("ws://☃.example/socket", PLACE),
        ("ws://[fe80::1%]/socket", PLACE),
        ("ws://[nonsense]/socket", PLACE),
        ("ws://[::1/socket", PLACE),
        ("ws://host:65536/socket", PLACE),
        ("ws://host:port/socket", PLACE),
        ("ws://host:-1/socket", PLACE),
        ("ws://host:0/socket", "the URL's port is 0, to which nobody can connect"),
        ("ws://host/socket#part", FRAGMENT),
        ("ws://host/socket#", FRAGMENT),
        ("ws://user:s3cr3t@host/socket", USER),
        ("ws://s3cr3t@host/socket", USER),
        (" ws://host/socket", BLANK),
        ("ws://host/so cket", BLANK),
        ("ws://host/socket\n", BLANK),
        ("ws://ho\tst/socket", BLANK),
        ("ws://host/socket?a=\x00", BLANK),
        ("ws://host/socket?a=\x7f", BLANK),
        ("ws://host/socket?a=\ud800", BLANK),
        ("ws://host/socket\u2028", BLANK),
    ],
)
def test_a_url_that_cannot_be_is_refused_with_advice(url: str, advice: str) -> None:
    assert problem(url) == advice


# ---- a path of its own


@pytest.mark.parametrize(
    ("url", "path", "params", "opened"),
    [
        ("ws://h/socket", "/live", {}, "ws://h/socket/live?vsn=2.0.0"),
        ("ws://h/socket/", "live", {}, "ws://h/socket/live?vsn=2.0.0"),
        ("ws://h/socket", "/websocket", {}, "ws://h/socket/websocket?vsn=2.0.0"),
        ("ws://h/socket/websocket", "/ws", {}, "ws://h/socket/websocket/ws?vsn=2.0.0"),
        ("ws://h/socket", "", {}, "ws://h/socket?vsn=2.0.0"),
        ("ws://h/socket", "/", {}, "ws://h/socket?vsn=2.0.0"),
        ("ws://h", "", {}, "ws://h/?vsn=2.0.0"),
        ("ws://h", "/socket/ws/", {}, "ws://h/socket/ws/?vsn=2.0.0"),
        ("ws://h/socket?a=1", "/live", {}, "ws://h/socket/live?a=1&vsn=2.0.0"),
        ("ws://h/socket", "/café", {}, "ws://h/socket/caf%C3%A9?vsn=2.0.0"),
        ("ws://h/socket", "/:key", {"key": "k/7 é", "a": 1}, "ws://h/socket/k%2F7%20%C3%A9?a=1&vsn=2.0.0"),
        ("ws://h/socket", "/:key/ws/:user_id", {"key": "k", "user_id": 7}, "ws://h/socket/k/ws/7?vsn=2.0.0"),
        ("ws://h", "/socket/:key", {"key": "%41"}, "ws://h/socket/%2541?vsn=2.0.0"),
        ("ws://h/socket?key=old", "/:key", {"key": "new"}, "ws://h/socket/new?vsn=2.0.0"),
        ("ws://h/a:b/socket", "/é/:key", {"key": "k"}, "ws://h/a:b/socket/%C3%A9/k?vsn=2.0.0"),
    ],
)
def test_a_socket_may_have_a_path_of_its_own(url: str, path: str, params: Any, opened: str) -> None:
    assert Endpoint(url, path=path, params=params).request("2.0.0", params).url == opened


@pytest.mark.parametrize(
    ("path", "params", "advice"),
    [
        ("/:key", None, "the path needs the param 'key': give it in params, as str or int"),
        ("/:key", {"key": {"a": 1}}, "the path needs the param 'key': give it in params, as str or int"),
        ("/:key", {"key": ""}, "param 'key' is a part of the path, and cannot be empty, '.' or '..' there"),
        ("/:key", {"key": "."}, "param 'key' is a part of the path, and cannot be empty, '.' or '..' there"),
        ("/:key", {"key": ".."}, "param 'key' is a part of the path, and cannot be empty, '.' or '..' there"),
        ("/:key", {"key": "s3cr3t\ud800"}, "param 'key' holds a lone surrogate, which is no text"),
        ("/a b", None, "path looks like /websocket or /:key, with no query, fragment, whitespace or controls"),
        ("/a?b=c", None, "path looks like /websocket or /:key, with no query, fragment, whitespace or controls"),
        ("/a#b", None, "path looks like /websocket or /:key, with no query, fragment, whitespace or controls"),
        (b"/a", None, "path must be str, not bytes"),
    ],
)
def test_a_path_that_cannot_be_is_refused_with_advice(path: Any, params: Any, advice: str) -> None:
    assert problem("ws://h/socket", path=path, params=params) == advice


def test_a_callable_may_give_what_the_path_needs() -> None:
    endpoint = Endpoint("ws://h/socket", path="/:key", params=lambda: None)
    assert endpoint.request("2.0.0", {"key": "k"}).url == "ws://h/socket/k?vsn=2.0.0"
    with pytest.raises(InvalidEndpoint, match="the path needs the param 'key'"):
        endpoint.request("2.0.0", {})


def test_a_param_in_the_path_is_as_secret_as_any() -> None:
    endpoint = Endpoint("ws://h/socket", path="/:key", params={"key": SECRET})
    address = endpoint.request("2.0.0", endpoint.params)
    assert endpoint.redacted == "ws://h/socket/:key"
    assert repr(address) == "Address(url='ws://h/socket/:key', …)"


def test_so_is_one_in_the_path_of_long_polling() -> None:
    endpoint = Endpoint("ws://h/socket", path="/:key", params={"key": SECRET}, transport="longpoll")
    address = endpoint.request("2.0.0", endpoint.params)
    assert (address.url, address.redacted) == (f"http://h/socket/{SECRET}?vsn=2.0.0", "http://h/socket/:key")


@pytest.mark.parametrize(
    ("url", "params", "secrets"),
    [
        ("ws://h/socket", {"a": "one", "b": True, "c": False, "d": None}, {"one"}),
        ("ws://h/socket?null=null&b=two?2", {"true": "vsn=2.0.0"}, {"two?2", "vsn%3D2.0.0", "vsn=2.0.0"}),
    ],
)
def test_what_is_secret_of_an_address(url: str, params: Any, secrets: set[str]) -> None:
    assert set(Endpoint(url, params=params).request("2.0.0", params).secrets()) == secrets


@pytest.mark.parametrize("url", [b"ws://h/s", None, 7])
def test_a_url_that_is_no_text_is_refused(url: Any) -> None:
    assert problem(url) == f"the URL must be str, not {type(url).__name__}"


# ---- params


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (None, ""),
        ({}, ""),
        ({"a": "b"}, "a=b"),
        ({"a": "1 &=?/é+%"}, "a=1%20%26%3D%3F%2F%C3%A9%2B%25"),
        ({"é": ""}, "%C3%A9="),
        ({"a/b": ""}, "a%2Fb="),
        ({"a": 1, "b": -2}, "a=1&b=-2"),
        ({"a": 10**40}, "a=1" + "0" * 40),
        ({"a": 1 - 10**1000}, "a=-" + "9" * 1000),
        ({"a": 1.5, "b": 1e300}, "a=1.5&b=1e%2B300"),
        ({"a": True, "b": False}, "a=true&b=false"),
        ({"a": None}, "a="),
        ({"a": {"b": "c", "d": {"e": 1}}}, "a%5Bb%5D=c&a%5Bd%5D%5Be%5D=1"),
        ({"a": ["x", 2, None]}, "a%5B%5D=x&a%5B%5D=2&a%5B%5D="),
        ({"a": ("x",)}, "a%5B%5D=x"),
        ({"a": {"b": ["x"]}}, "a%5Bb%5D%5B%5D=x"),
        ({"a": {}, "b": []}, ""),
    ],
)
def test_params_are_written_as_plug_reads_them(params: Any, expected: str) -> None:
    assert query(params) == expected


def test_enums_are_written_by_their_value() -> None:
    class Colour(str, Enum):  # noqa: UP042 (its str() is not its value)
        RED = "red"

    class Level(int, Enum):
        HIGH = 3

    class Rate(float, Enum):
        HALF = 0.5

    assert query({"a": Colour.RED, "b": Level.HIGH, "c": Rate.HALF}) == "a=red&b=3&c=0.5"


@pytest.mark.parametrize(
    ("url", "params", "expected"),
    [
        ("ws://h/s?a=1&b=2", None, "a=1&b=2"),
        ("ws://h/s?a=1&b=2", {"a": 9}, "b=2&a=9"),
        ("ws://h/s?a=1=1&b=2=2", {"a": 9}, "b=2=2&a=9"),
        ("ws://h/s?a[x]=1&a%5By%5D=2&ab=3", {"a": {"z": 9}}, "ab=3&a%5Bz%5D=9"),
        ("ws://h/s?a=1", {"a[x]": 2}, "a%5Bx%5D=2"),
        ("ws://h/s?a=1", {"a": {}}, "a=1"),
        ("ws://h/s?a=x+y%20z&é={}", None, "a=x+y%20z&%C3%A9=%7B%7D"),
        ("ws://h/s?&a=1&&flag&", None, "a=1&flag"),
        ("ws://h/s?vsn=1.0.0&a=1", None, "a=1"),
        ("ws://h/s?vs%6e=1.0.0", None, ""),
        ("ws://h/s", {"vsn": "1.0.0", "a": 1}, "a=1"),
        ("ws://h/s", {"vsn": {"a": 1}}, ""),
    ],
)
def test_the_urls_query_is_kept_but_params_and_vsn_win(url: str, params: Any, expected: str) -> None:
    assert query(params, url) == expected


def test_the_serializer_decides_the_vsn() -> None:
    assert Endpoint("ws://h/s").request("1.0.0").url == "ws://h/s/websocket?vsn=1.0.0"


INSTEAD = "give str, int, float, bool, None, a mapping, or a list of plain values (anything else as JSON text)"


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"a": b"s3cr3t"}, f"param 'a' cannot carry bytes: {INSTEAD}"),
        ({"a": {"b": {1}}}, f"param 'a[b]' cannot carry set: {INSTEAD}"),
        ({"a": [["s3cr3t"]]}, f"param 'a[]' cannot carry list: {INSTEAD}"),
        ({"a": [{"b": "s3cr3t"}]}, f"param 'a[]' cannot carry dict: {INSTEAD}"),
        ({"a": float("nan")}, f"param 'a' cannot carry NaN or Infinity: {INSTEAD}"),
        ({"a": [float("-inf")]}, f"param 'a[]' cannot carry NaN or Infinity: {INSTEAD}"),
        ({"a": 10**1000}, f"param 'a' cannot carry int: {INSTEAD}"),
        ({"a": "s3cr3t\ud800"}, "param 'a' holds a lone surrogate, which is no text"),
        ({"\udfff": 1}, "param '\\udfff' holds a lone surrogate, which is no text"),
        ({1: "s3cr3t"}, "the names of params must be str, not int"),
        ({"a": {None: 1}}, "the names of params in 'a' must be str, not NoneType"),
        (["s3cr3t"], "params must be a mapping, not list"),
        ("s3cr3t", "params must be a mapping, not str"),
    ],
)
def test_params_that_cannot_be_sent_are_refused_by_name_and_never_by_value(params: Any, named: str) -> None:
    assert problem("ws://h/s", params=params) == named


TOO_DEEP = "params are nested deeper than 32 levels, or contain themselves"


def test_params_that_contain_themselves_are_refused() -> None:
    params: dict[str, Any] = {}
    params["a"] = params
    assert problem("ws://h/s", params=params) == TOO_DEEP


def test_params_may_be_nested_to_a_depth() -> None:
    params: dict[str, Any] = {"a": 1}
    for _ in range(31):
        params = {"a": params}
    assert query(params) == f"a{31 * '%5Ba%5D'}=1"
    assert problem("ws://h/s", params={"a": params}) == TOO_DEEP


@pytest.mark.parametrize("size", [9_000, 100_000])
def test_how_long_a_request_may_be_is_the_servers_to_tell(size: int) -> None:
    assert query({"token": "x" * size}) == f"token={'x' * size}"


def plug_decoded(text: str) -> dict[str, Any]:
    """What Plug.Conn.Query makes of a query: mappings of texts, mappings and lists of texts."""
    decoded: dict[str, Any] = {}
    for pair in filter(None, text.split("&")):
        name, value = (unquote_plus(part, errors="strict") for part in pair.split("="))
        root, *path = name.replace("]", "").split("[")
        place, key = decoded, root
        for step in path:
            if step == "":
                place.setdefault(key, []).append(value)
                break
            place, key = place.setdefault(key, {}), step
        else:
            place[key] = value
    return decoded


names = st.text(st.characters(codec="utf-8", exclude_characters="[]"), min_size=1, max_size=4).filter("vsn".__ne__)
texts = st.text(st.characters(codec="utf-8"), max_size=8)
mappings = st.recursive(
    st.dictionaries(names, texts | st.lists(texts, min_size=1, max_size=3), min_size=1, max_size=3),
    lambda inner: st.dictionaries(names, inner | texts, min_size=1, max_size=3),
    max_leaves=6,
)


@given(mappings)
def test_a_server_reads_what_was_given(params: Mapping[str, Any]) -> None:
    assert plug_decoded(query(params)) == params


@given(mappings)
def test_the_url_is_plain_ascii_whatever_the_params(params: Mapping[str, Any]) -> None:
    url = Endpoint("ws://h/s").request("2.0.0", params).url
    assert url.isascii()
    assert url.isprintable()
    assert " " not in url
    assert url.count("vsn=2.0.0") == 1


# ---- the token


def test_without_a_token_no_subprotocol_is_offered() -> None:
    assert Endpoint("ws://h/s").request("2.0.0").subprotocols == ()


@pytest.mark.parametrize(
    ("token", "encoded"),
    [("sekret", "c2VrcmV0"), ("a", "YQ"), ("ab", "YWI"), ("abW", "YWJX"), ("~~~???", "fn5+Pz8/"), ("é", "w6k")],
)
def test_the_token_travels_as_a_second_subprotocol_in_standard_base64_unpadded(token: str, encoded: str) -> None:
    endpoint = Endpoint("ws://h/s", auth_token=token)
    address = endpoint.request("2.0.0", None, token)
    assert address.subprotocols == ("phoenix", f"base64url.bearer.phx.{encoded}")


@given(texts.filter(bool))
def test_a_server_reads_the_token_that_was_given(token: str) -> None:
    _phoenix, offer = Endpoint("ws://h/s").request("2.0.0", None, token).subprotocols
    encoded = offer.removeprefix("base64url.bearer.phx.")
    assert b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode() == token


@pytest.mark.parametrize(
    ("token", "advice"),
    [
        ("", "auth_token is empty: give None if there is no token"),
        (b"s3cr3t", "auth_token must be str, not bytes"),
        (7, "auth_token must be str, not int"),
        ("s3cr3t\ud800", "auth_token holds a lone surrogate, which is no text"),
    ],
)
def test_a_token_that_cannot_be_sent_is_refused(token: Any, advice: str) -> None:
    assert problem("ws://h/s", auth_token=token) == advice


# ---- headers


@pytest.mark.parametrize(
    "headers", [{"Authorization": "Bearer x", "x-a": ""}, [("Authorization", "Bearer x"), ("x-a", "")]]
)
def test_headers_are_sent_as_given(headers: Any) -> None:
    address = Endpoint("ws://h/s", headers=headers).request("2.0.0")
    assert address.headers == (("Authorization", "Bearer x"), ("x-a", ""))


NO_NAME = "{!r} is no name of a header"
NOT_PRINTABLE = "the value of header {!r} must be printable ASCII: percent-encode the rest"
TAKEN = "the header {!r} belongs to the handshake and cannot be given"


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("", "x", NO_NAME),
        ("a b", "x", NO_NAME),
        ("a:", "x", NO_NAME),
        ("é", "x", NO_NAME),
        ("x-a\n", "x", NO_NAME),
        ("x-a", "s3cr3t\r\nx-b: y", NOT_PRINTABLE),
        ("x-a", "s3cr3t\n", NOT_PRINTABLE),
        ("x-a", "s3cr3té", NOT_PRINTABLE),
        ("Host", "x", TAKEN),
        ("upgrade", "x", TAKEN),
        ("Connection", "x", TAKEN),
        ("Sec-WebSocket-Protocol", "x", TAKEN),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused(name: str, value: str, advice: str) -> None:
    assert problem("ws://h/s", headers={name: value}) == advice.format(name)


@pytest.mark.parametrize(
    ("headers", "advice"),
    [
        ({"X": None}, "the value of header 'X' must be str, not NoneType: leave it out"),
        ({"X": b"s3cr3t"}, "the value of header 'X' must be str, not bytes: decode it"),
        ({"X": 7}, "the value of header 'X' must be str, not int"),
        ([("X", ["s3cr3t"])], "the value of header 'X' must be str, not list"),
        ({b"X": "s3cr3t"}, "the names of headers must be str, not bytes"),
        ({None: "s3cr3t"}, "the names of headers must be str, not NoneType"),
        (None, "headers must be a mapping, or a list of pairs of name and value, not NoneType"),
        ("X: s3cr3t", "headers must be a mapping, or a list of pairs of name and value, not str"),
        (["X: s3cr3t"], "headers must be a mapping, or a list of pairs of name and value, not str"),
        ([("X", "s3cr3t", "more")], "headers must be a mapping, or a list of pairs of name and value, not tuple"),
        (iter([("X", "s3cr3t")]), "headers must be a mapping, or a list of pairs of name and value, not list_iterator"),
    ],
)
def test_headers_of_another_kind_are_refused_by_name(headers: Any, advice: str) -> None:
    assert problem("ws://h/s", headers=headers) == advice


# ---- callables


def provider() -> Any:
    raise AssertionError("the core never calls user code")


def test_static_credentials_have_no_providers() -> None:
    endpoint = Endpoint("ws://h/s", params={"a": 1}, auth_token="x")
    assert endpoint.providers == {}


@pytest.mark.parametrize("names", [{"params"}, {"auth_token"}, {"params", "auth_token"}])
def test_callables_are_told_by_name_and_never_called(names: set[str]) -> None:
    given: dict[str, Any] = dict.fromkeys(names, provider)
    endpoint = Endpoint("ws://h/s", **given)
    assert endpoint.providers == given


def test_a_request_takes_what_the_callables_gave() -> None:
    endpoint = Endpoint("ws://h/s", params=provider, auth_token=provider)
    given: dict[str, Any] = {"params": {"a": 1}, "auth_token": "x"}
    assert endpoint.request("2.0.0", **given) == Address(
        "ws://h/s/websocket?a=1&vsn=2.0.0", ("phoenix", "base64url.bearer.phx.eA")
    )


@pytest.mark.parametrize("given", [{"params": 7}, {"auth_token": 7}, {"params": {"a": b"s3cr3t"}}])
def test_what_a_callable_gave_is_checked_too(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidEndpoint):
        Endpoint("ws://h/s", params=provider, auth_token=provider).request("2.0.0", **given)


# ---- secrets


def test_reprs_show_where_and_nothing_else() -> None:
    endpoint = Endpoint(
        f"wss://h/s?key={SECRET}?b", params={"a": SECRET}, auth_token=SECRET, headers={"authorization": SECRET}
    )
    address = endpoint.request("2.0.0", endpoint.params, endpoint.auth_token)
    assert SECRET in address.url
    assert repr(endpoint) == str(endpoint) == "Endpoint('wss://h/s/websocket', …)"
    assert repr(address) == str(address) == "Address(url='wss://h/s/websocket', …)"
    assert endpoint.redacted == "wss://h/s/websocket"


@pytest.mark.parametrize(
    ("url", "given"),
    [
        (f"ws://{SECRET}:port/s", {}),
        (f"ws://h:{SECRET}/s", {}),
        ("ws://h/s", {"params": {"a": f"{SECRET}\ud800"}}),
        ("ws://h/s", {"auth_token": f"{SECRET}\ud800"}),
    ],
)
def test_a_traceback_shows_no_secret_of_an_inner_error(url: str, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidEndpoint) as caught:
        Endpoint(url, **given)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_what_is_in_every_url_is_no_secret() -> None:
    address = Endpoint("ws://h/socket?token=hush&debug=true").request("2.0.0")
    assert set(address.secrets()) == {"hush"}
