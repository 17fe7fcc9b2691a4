"""Errors of connecting, with messages of our own, for all WebSocket adapters."""

import errno
import socket
import ssl as tls
from collections.abc import Generator
from contextlib import contextmanager

from phx_proto.errors import CertificateError, ConnectError

from .answer import USE_NO_TLS
from .reaching import place_of


@contextmanager
def told(host: str, port: int, *, secure: bool = False, proxy: str = "") -> Generator[None]:
    """Raises network errors within a block as errors of our own; see `network_error`."""
    try:
        yield
    except OSError as error:
        raise network_error(error, host, port, secure=secure, proxy=proxy) from error
    except ValueError:  # Python's own error, for a name that cannot be looked up or cannot be in a certificate
        raise ConnectError(f"no address was found for {proxy}host {host}: it is no valid name") from None


def network_error(error: OSError, host: str, port: int, *, secure: bool = False, proxy: str = "") -> ConnectError:
    """Why the connection, or TLS on it, failed; `proxy` is `"the proxy "` for a proxy's."""
    place = f"{proxy}{place_of(host, port)}"
    if isinstance(error, tls.SSLCertVerificationError):
        return CertificateError(
            f"the TLS certificate of {place} was not accepted: {error.verify_message} ({_certificate_advice(error)})"
        )
    if isinstance(error, tls.SSLError):
        reason = (error.reason or str(error)).replace("_", " ").lower()
        return ConnectError(f"TLS with {place} failed: {reason} ({USE_NO_TLS})")
    if isinstance(error, socket.gaierror):
        return ConnectError(f"no address was found for {proxy}host {host}: {error.strerror}")
    if isinstance(error, ConnectionRefusedError):
        up = "is the proxy up?" if proxy else "is the server up?"
        return ConnectError(f"{place} refused the connection ({up})")
    # A reset made by the event loop has no errno, and a late caller gets it as "not connected".
    if isinstance(error, ConnectionResetError) or error.errno == errno.ENOTCONN:
        advice = f" ({USE_NO_TLS})" if secure else ""
        return ConnectError(f"{place} ended the connection before it was open{advice}")
    return ConnectError(f"no connection to {place}: {error.strerror or error}")


def _certificate_advice(error: tls.SSLCertVerificationError) -> str:
    """What to do, by OpenSSL's X509_V_ERR_… codes."""
    match getattr(error, "verify_code", 0):  # application code that raises it may leave this out
        case 9 | 10:
            return "the certificate is not valid now: is this machine's clock right? then renew it on the server"
        case 62 | 63 | 64:
            return "it is for another host: use the name that it was made for"
        case _:
            return (
                "to trust one of your own, give ssl=ssl.create_default_context(cafile=…), or name its file in the "
                "environment variable SSL_CERT_FILE"
            )
