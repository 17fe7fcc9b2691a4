"""Where to connect: from URL, params, token and headers to the address of one attempt.

An `Endpoint` has the application's values; params and token may be callables, which only an adapter may call. An
`Address` is what one attempt opens, made by `Endpoint.request` from the endpoint and the callables' values. What can be
checked is checked when the endpoint is made; params and headers are read again at every request.

Everything except the URL's scheme, host, port and path counts as secret: no repr, string or error of this module shows
it. An error names the wrong param or header, never its value.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from math import isfinite
from typing import Any, Final, TypeAlias
from urllib.parse import quote, unquote, unquote_plus, urlsplit

import msgspec

from .commands import Provider
from .errors import InvalidEndpoint
from .shown import secrets_in_headers, secrets_in_url, shown
from .transports import TransportName

#: Query parameters that are not secret: the protocol's version, and values without information.
_PLAIN: Final = re.compile(r"vsn=.*|[^=]*(=(true|false|null)?)?")

#: Text, numbers, booleans and `None`, mappings of them at any depth (`a[b]=c`), and lists of plain values (`a[]=c`).
Params: TypeAlias = Mapping[str, Any]
Headers: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]


class Address(msgspec.Struct, frozen=True):
    """What one attempt opens.

    Attributes:
        url: The whole URL. Secret.
        subprotocols: To offer, in this order, unchanged. Secret.
        headers: To send besides the handshake's own; with every request of long polling. Secret.
        token_header: The header with the auth token when a long-polling session opens, if there is one. Secret.
        transport: The transport to open.
    """

    url: str
    subprotocols: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    #: The URL for logs if its path has params; otherwise it is the URL without its query.
    shown: str = ""
    token_header: tuple[tuple[str, str], ...] = ()
    transport: TransportName = "websocket"

    def __repr__(self) -> str:
        return f"Address(url={self.redacted!r}, …)"

    @property
    def redacted(self) -> str:
        """The URL for logs and errors."""
        return self.shown or self.url.partition("?")[0]

    def secrets(self) -> Iterator[str]:
        """Its secrets, to mask in a peer's texts: token, credentials, values of params."""
        base, _, query = self.url.partition("?")
        kept = (pair for pair in query.split("&") if not _PLAIN.fullmatch(pair))
        yield from secrets_in_url(f"{base}?{'&'.join(kept)}")
        if self.shown:  # its path has params
            yield from (unquote(part) for part in {*base.split("/")} - {*self.shown.split("/")})
        yield from secrets_in_headers(self.headers)
        yield from (value.encode("latin-1").decode() for _, value in self.token_header)
        for subprotocol in self.subprotocols:
            if subprotocol.startswith(_TOKEN_PREFIX):
                encoded = subprotocol.removeprefix(_TOKEN_PREFIX)
                yield encoded
                yield b64decode(encoded + "==").decode()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Endpoint:
    """A socket of a Phoenix server, as named by the application.

    Attributes:
        url: Where the server mounts the socket, e.g. `wss://host/socket`; `/websocket` or `/longpoll` is appended,
            unless the path ends in it. A query is kept, except params of the same names and `vsn`. `http` and `https`
            stand for `ws` and `wss`, and the reverse for long polling.
        path: What is appended instead, for a socket with a path of its own: `"/:key"` for Phoenix's
            `websocket: [path: "/:key"]`; empty if the URL is whole. A `:key` in it is taken from the params.
        transport: The transport of `path`, and the one to use by default.
        params: For the server's `connect/3`, or a callable that returns them at each connect. Numbers are written as in
            JSON, booleans as `true` and `false`, `None` as an empty text; an empty mapping or list is left out. A param
            named `vsn` is ignored: the serializer decides.
        auth_token: For a socket with `auth_token: true`, or a callable that returns it at each connect.
        headers: To send with the handshake, e.g. `{"authorization": …}`.

    Raises:
        InvalidEndpoint: One of these is not valid; the text says which and what to do.

    >>> Endpoint("wss://example.com/socket", params={"user": 7}).request("2.0.0", {"user": 7}).url
    'wss://example.com/socket/websocket?user=7&vsn=2.0.0'
    >>> Endpoint("wss://example.com/socket", path="/:key", params={"key": "k7"}).request("2.0.0", {"key": "k7"}).url
    'wss://example.com/socket/k7?vsn=2.0.0'
    """

    url: str
    _: KW_ONLY
    params: Params | Provider | None = None
    auth_token: str | Provider | None = None
    headers: Headers = ()
    path: str | None = None
    transport: TransportName = "websocket"
    #: The address without its query: scheme, host, port and path. For logs.
    redacted: str = field(init=False)
    _query: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        base, query = _split(self.url, self.path, self.transport)
        object.__setattr__(self, "redacted", base)
        object.__setattr__(self, "_query", query)
        given = {name: None if callable(value) else value for name, value in self.given.items()}
        if callable(self.params):
            given["params"] = dict.fromkeys(self._path_params, "any")
        self.request("2.0.0", **given)

    def __repr__(self) -> str:
        return f"Endpoint({self.redacted!r}, …)"

    @property
    def given(self) -> dict[str, Any]:
        """`params` and `auth_token`, by these names."""
        return {"params": self.params, "auth_token": self.auth_token}

    @property
    def providers(self) -> dict[str, Provider]:
        """The callables among `params` and `auth_token`, by these names: call them before each `request`."""
        return {name: value for name, value in self.given.items() if callable(value)}

    def request(
        self, vsn: str, params: Any = None, auth_token: Any = None, *, transport: TransportName | None = None
    ) -> Address:
        """The address of one attempt.

        Args:
            vsn: The serializer's version.
            params: The endpoint's, or its callable's value.
            auth_token: The endpoint's, or its callable's value.
            transport: The transport to use; by default the endpoint's own. Another one has its usual path.

        Raises:
            InvalidEndpoint: They cannot be sent, or a param that the path needs is missing.
        """
        transport = transport or self.transport
        flat = _flat_params(params)
        if transport == self.transport:
            base, inside = self._filled(dict(flat)), {"vsn", *self._path_params}
        else:
            base, inside = _split(self.url, None, transport)[0], {"vsn"}
        pairs = [pair for pair in flat if _root(pair[0]) not in inside]
        ours = {*inside, *(_root(name) for name, _ in pairs)}
        kept = (piece for piece in self._query if _root(unquote_plus(piece.partition("=")[0])) not in ours)
        given = (f"{_quoted(name, name)}={_quoted(name, text)}" for name, text in [*pairs, ("vsn", vsn)])
        query = "&".join([*kept, *given])
        to_show = self.redacted if transport == self.transport and base != self.redacted else ""
        url, headers = f"{base}?{query}", tuple(_checked_headers(self.headers))
        if transport == "longpoll":
            return Address(url, (), headers, to_show, _token_header(auth_token), transport)
        return Address(url, _subprotocols(auth_token), headers, to_show)

    @property
    def _path_params(self) -> list[str]:
        """The names of the params in the path."""
        return _PATH_PARAM.findall(self.path or "")

    def _filled(self, texts: dict[str, str]) -> str:
        """The address without its query, with the params filled in."""
        path = _quoted_path(self.path or "")
        mount = self.redacted.removesuffix(path)
        for name in self._path_params:
            text = texts.get(name)
            if text is None:
                raise InvalidEndpoint(f"the path needs the param {name!r}: give it in params, as str or int")
            if text in ("", ".", ".."):
                raise InvalidEndpoint(f"param {name!r} is a part of the path, and cannot be empty, '.' or '..' there")
        return mount + _PATH_PARAM.sub(lambda found: _quoted(found[1], texts[found[1]]), path)


# ---- the URL --------------------------------------------------------------------------------------------------------

_SCHEMES: Final[Mapping[TransportName, Mapping[str, str]]] = {
    "websocket": {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"},
    "longpoll": {"ws": "http", "wss": "https", "http": "http", "https": "https"},
}

_HOST: Final = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+(%[A-Za-z0-9._~-]+)?\]")
_LONGEST_LABEL: Final = 63  # RFC 1035 §2.3.4
_LONGEST_NAME: Final = 253
_UNPRINTABLE: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")

#: What RFC 3986 allows in a path and in a query; `%` because existing escapes stay.
_SAFE_IN_PATH: Final = "/%:@!$&'()*+,;=~"
_SAFE_IN_QUERY: Final = f"{_SAFE_IN_PATH}?"


def _split(url: Any, own_path: str | None, transport: TransportName) -> tuple[str, tuple[str, ...]]:
    """The URL without its query and with the transport's path, and the pieces of the query; both ASCII."""
    if not isinstance(url, str):
        raise InvalidEndpoint(f"the URL must be str, not {_kind(url)}")
    if _UNPRINTABLE.search(url):
        raise InvalidEndpoint("the URL holds whitespace or control characters: remove or percent-encode them")
    if "#" in url:
        raise InvalidEndpoint("the URL has a fragment (#…), which no server ever sees: remove it, or write # as %23")
    try:
        parts = urlsplit(url)
        host, port = _ascii_host(parts.hostname or ""), parts.port
    except ValueError:  # its text may show the URL
        raise InvalidEndpoint("the URL's host or port is not valid: it looks like wss://host:4000/socket") from None
    schemes = _SCHEMES[transport]
    if parts.scheme not in schemes:
        given = "/".join(url.partition("?")[0].split("/")[:3])  # scheme and host only: the rest may hold secrets
        given = "" if "@" in url or not given else f", not {shown(given)}"
        raise InvalidEndpoint(f"the URL must begin with ws://, wss://, http:// or https://{given}")
    if "@" in parts.netloc:
        raise InvalidEndpoint(
            "the URL holds a user or password, which would end up in logs: send an authorization header instead"
        )
    if not _HOST.fullmatch(host):
        raise InvalidEndpoint("the URL has no valid host: it looks like wss://host:4000/socket")
    if port == 0:
        raise InvalidEndpoint("the URL's port is 0, to which nobody can connect")
    place = host if port is None else f"{host}:{port}"
    mount = parts.path.removesuffix("/")
    if own_path is not None:
        path = f"{quote(mount, safe=_SAFE_IN_PATH)}{_quoted_path(own_path)}" or "/"
    else:
        whole = parts.path if mount.endswith(f"/{transport}") else f"{mount.removesuffix('/websocket')}/{transport}"
        path = quote(whole, safe=_SAFE_IN_PATH)
    query = quote(parts.query, safe=_SAFE_IN_QUERY)
    return f"{schemes[parts.scheme]}://{place}{path}", tuple(piece for piece in query.split("&") if piece)


def _ascii_host(host: str) -> str:
    """The host in the form to look up: UTS 46 and IDNA 2008, like browsers. Raises `ValueError` if it is not a name.

    Python's own IDNA 2003 turns `faß` into `fass`: another host. An ASCII name stays unchanged.
    """
    if ":" in host:
        address, has_zone, zone = host.partition("%")
        return f"[{address}{has_zone}{zone.removeprefix('25')}]"  # in a URL `%` is written `%25` (RFC 6874)
    if not host.isascii():
        import idna  # here, because the import takes two milliseconds and few hosts need it

        host = idna.encode(host, uts46=True).decode()
    name = host.removesuffix(".")  # names that end in a dot are absolute
    fits = len(name) <= _LONGEST_NAME and all(0 < len(label) <= _LONGEST_LABEL for label in name.split("."))
    if host and not fits:
        raise ValueError
    return host


#: In a given path: the name of a param.
_PATH_PARAM: Final = re.compile(r":([A-Za-z_][A-Za-z0-9_]*)")


def _quoted_path(path: Any) -> str:
    """A given path, as appended to the mount."""
    if not isinstance(path, str):
        raise InvalidEndpoint(f"path must be str, not {_kind(path)}")
    if _UNPRINTABLE.search(path) or "?" in path or "#" in path:
        raise InvalidEndpoint("path looks like /websocket or /:key, with no query, fragment, whitespace or controls")
    whole = path.lstrip("/")
    return f"/{quote(whole, safe=_SAFE_IN_PATH)}" if whole else ""


# ---- params ---------------------------------------------------------------------------------------------------------

_DEEPEST: Final = 32


def _flat_params(params: Any) -> list[tuple[str, str]]:
    """Names and texts in the form that Plug reads: `a`, `a[b]`, `a[]`."""
    if params is None:
        return []
    if not isinstance(params, Mapping):
        raise InvalidEndpoint(f"params must be a mapping, not {_kind(params)}")
    return list(_flat_mapping("", params, depth=0))  # pyright: ignore[reportUnknownArgumentType]


def _flat_mapping(path: str, values: Mapping[Any, Any], *, depth: int) -> Iterator[tuple[str, str]]:
    if depth == _DEEPEST:
        raise InvalidEndpoint(f"params are nested deeper than {_DEEPEST} levels, or contain themselves")
    for key, value in values.items():
        if not isinstance(key, str):
            within = f" in {path!r}" if path else ""
            raise InvalidEndpoint(f"the names of params{within} must be str, not {_kind(key)}")
        name = f"{path}[{key}]" if path else key
        if isinstance(value, Mapping):
            yield from _flat_mapping(name, value, depth=depth + 1)  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(value, list | tuple):
            for element in value:  # pyright: ignore[reportUnknownVariableType]
                # Plug cannot tell the elements of nested lists apart.
                yield f"{name}[]", _text(f"{name}[]", element)
        else:
            yield name, _text(name, value)


def _text(name: str, value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case float() if isfinite(value):
            return float.__repr__(value)
        case int() if abs(value) < 10**1000:  # Python does not write ints of very many digits
            return int.__repr__(value)
        case _:
            what = "NaN or Infinity" if isinstance(value, float) else _kind(value)
            raise InvalidEndpoint(
                f"param {name!r} cannot carry {what}: give str, int, float, bool, None, a mapping, "
                "or a list of plain values (anything else as JSON text)"
            )


def _quoted(name: str, text: str) -> str:
    """The param's name or value, percent-encoded."""
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:  # its text shows the value
        raise InvalidEndpoint(f"param {name!r} holds a lone surrogate, which is no text") from None


def _root(name: str) -> str:
    return name.partition("[")[0]


def _kind(value: object) -> str:
    return type(value).__name__


# ---- token and headers ----------------------------------------------------------------------------------------------

_TOKEN_PREFIX: Final = "base64url.bearer.phx."
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
_TOKEN_HEADER: Final = re.compile(r"[!-~\x80-\xff]([\t -~\x80-\xff]*[!-~\x80-\xff])?")
_HANDSHAKE_HEADER: Final = re.compile(r"host|connection|upgrade|sec-websocket-.*", re.IGNORECASE)


def _subprotocols(token: Any) -> tuple[str, ...]:
    """The offer with the token; base64 in the standard alphabet despite the prefix, as in phoenix.js and Phoenix."""
    if token is None:
        return ()
    return ("phoenix", f"{_TOKEN_PREFIX}{b64encode(_token_bytes(token)).decode().rstrip('=')}")


def _token_header(token: Any) -> tuple[tuple[str, str], ...]:
    """The header with the token, for a transport without subprotocols: unchanged, in UTF-8."""
    if token is None:
        return ()
    value = _token_bytes(token).decode("latin-1")
    if not _TOKEN_HEADER.fullmatch(value):
        raise InvalidEndpoint("auth_token has control characters or outer spaces, which no header of HTTP can carry")
    return (("x-phoenix-authtoken", value),)


def _token_bytes(token: Any) -> bytes:
    if not isinstance(token, str):
        raise InvalidEndpoint(f"auth_token must be str, not {_kind(token)}")
    if not token:
        raise InvalidEndpoint("auth_token is empty: give None if there is no token")
    try:
        return token.encode()
    except UnicodeEncodeError:  # its text shows the token
        raise InvalidEndpoint("auth_token holds a lone surrogate, which is no text") from None


def _checked_headers(headers: Headers) -> Iterator[tuple[str, str]]:
    for name, value in _header_pairs(headers):
        if not isinstance(name, str):
            raise InvalidEndpoint(f"the names of headers must be str, not {_kind(name)}")
        if not _HEADER_NAME.fullmatch(name):
            raise InvalidEndpoint(f"{name!r} is no name of a header")
        if _HANDSHAKE_HEADER.fullmatch(name):
            raise InvalidEndpoint(f"the header {name!r} belongs to the handshake and cannot be given")
        if not isinstance(value, str):
            instead = {"bytes": ": decode it", "NoneType": ": leave it out"}.get(_kind(value), "")
            raise InvalidEndpoint(f"the value of header {name!r} must be str, not {_kind(value)}{instead}")
        if not _HEADER_VALUE.fullmatch(value):
            raise InvalidEndpoint(f"the value of header {name!r} must be printable ASCII: percent-encode the rest")
        yield name, value


def _header_pairs(headers: object) -> list[tuple[Any, Any]]:
    """The headers as pairs. They are read at each request, so an iterator is refused."""
    if isinstance(headers, Mapping):
        return list(headers.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    pairs: list[Any] = list(headers) if isinstance(headers, list | tuple) else [headers]  # pyright: ignore[reportUnknownArgumentType]
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:  # pyright: ignore[reportUnknownArgumentType]
            raise InvalidEndpoint(f"headers must be a mapping, or a list of pairs of name and value, not {_kind(pair)}")  # pyright: ignore[reportUnknownArgumentType]
    return pairs
