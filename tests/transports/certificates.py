"""A certificate authority that is thrown away after the tests."""

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


_SIGNS, _TALKS = _usage(signs_certificates=True), _usage(signs_certificates=False)


class Authority:
    """Makes contexts for servers, and one for clients that trust it.

    Args:
        directory: Where keys are written down, for `ssl` wants files.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throwaway")])
        self._certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None), _SIGNS)

    def trusting(self) -> ssl.SSLContext:
        """A client's context that trusts this authority alone."""
        return ssl.create_default_context(cadata=_pem(self._certificate).decode())

    def file(self) -> Path:
        """Its certificate, for who trusts by file: the environment's `SSL_CERT_FILE`."""
        path = self._directory / "authority.pem"
        path.write_bytes(_pem(self._certificate))
        return path

    def server(self, host: str = "127.0.0.1", *, begins: float = -1.0) -> ssl.SSLContext:
        """A server's context.

        Args:
            host: An address or a name, which the certificate is for.
            begins: From when on it is valid, in hours from now, and for two hours then.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            who: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            who = x509.DNSName(host)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        no_authority = x509.BasicConstraints(ca=False, path_length=None)
        certificate = self._sign(name, key, no_authority, _TALKS, who, begins=begins)
        chain = self._directory / f"{certificate.serial_number}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        chain.write_bytes(private + _pem(certificate) + _pem(self._certificate))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        return context

    def _sign(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        constraints: x509.BasicConstraints,
        usage: x509.KeyUsage,
        *hosts: x509.GeneralName,
        begins: float = -1.0,
    ) -> x509.Certificate:
        """With all that Python 3.13 wants to see."""
        begin = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=begins)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + datetime.timedelta(hours=2))
            .add_extension(constraints, critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
