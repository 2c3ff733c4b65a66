"""Ed25519 keys (RFC 8032) in files as OpenSSL writes them: a private one in PKCS #8, public ones by name in a folder.

    openssl genpkey -algorithm ed25519 -out release.pem
    openssl pkey -in release.pem -pubout -out trusted/ada.pub

A key's id is the SHA-256 of its public half (SubjectPublicKeyInfo in DER). Whose a public key is, its file's name says,
to whoever put it there.
"""

from __future__ import annotations

import hashlib
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from saewatch.core import limits
from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.core.manifest import NAME
from saewatch.dictionary.disk import read

SUFFIX = ".pub"
_EXPECTED = "an Ed25519 key in PEM, without a password"


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """What signs."""

    key: Ed25519PrivateKey = field(repr=False)

    @property
    def id(self) -> str:
        """Of its public half."""
        return _id(self.key.public_key())

    def sign(self, data: bytes) -> bytes:
        """The same data give the same signature."""
        return self.key.sign(data)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What somebody is trusted by."""

    name: str
    key: Ed25519PublicKey

    @property
    def id(self) -> str:
        """``sha256:…``."""
        return _id(self.key)

    def made(self, signature: bytes, data: bytes) -> bool:
        """Whether it is this key's signature of these bytes."""
        try:
            self.key.verify(signature, data)
        except InvalidSignature:
            return False
        return True


def read_private(path: Path) -> PrivateKey:
    """The key in a file that nobody else reads. UnreachableError without one, ConfigError for any other."""
    data = read(path, limits.KEY_BYTES)
    if b"PUBLIC KEY-----" in data:
        raise ConfigError(str(path), found="a public key", expected="the private one that it belongs to")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        hint = f"Say `chmod 600 {path}`, and think of whether to make another key."
        raise ConfigError(str(path), found="a key that others may read", expected="one of its owner's alone", hint=hint)
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError as error:  # so it asks for a password
        raise ConfigError(str(path), found="a key with a password", expected=_EXPECTED) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(str(path), found="no key that can be read", expected=_EXPECTED) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(str(path), found=type(key).__name__, expected=_EXPECTED)
    return PrivateKey(key)


def read_trusted(folder: Path) -> tuple[PublicKey, ...]:
    """The keys in a folder, ``NAME.pub`` each. ConfigError for what is none, for two files of one key, and for none."""
    if not folder.is_dir():
        raise UnreachableError(str(folder), found="no folder", expected=f"a folder of public keys, NAME{SUFFIX}")
    paths = sorted(folder.iterdir())
    if not 0 < len(paths) <= limits.TRUSTED_KEYS:
        expected = f"1 to {limits.TRUSTED_KEYS} public keys, NAME{SUFFIX}"
        raise ConfigError(str(folder), found=f"{len(paths)} files", expected=expected)
    found: dict[str, PublicKey] = {}
    for path in paths:
        one = _read_public(path)
        if one.id in found:
            raise ConfigError(str(path), found=f"the key of {found[one.id].name}", expected="each key once")
        found[one.id] = one
    return tuple(found.values())


def _read_public(path: Path) -> PublicKey:
    name = path.name.removesuffix(SUFFIX)
    if path.suffix != SUFFIX or re.fullmatch(NAME, name) is None:
        raise ConfigError(str(path), found="a file of this name", expected=f"NAME{SUFFIX}, with a public key")
    try:
        key = load_pem_public_key(read(path, limits.KEY_BYTES))
    except (ValueError, UnsupportedAlgorithm) as error:
        found = "no public key that can be read"
        raise ConfigError(str(path), found=found, expected="an Ed25519 public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(str(path), found=type(key).__name__, expected="an Ed25519 public key in PEM")
    return PublicKey(name, key)


def _id(key: Ed25519PublicKey) -> str:
    return f"sha256:{hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()}"
