"""Ed25519 keys in files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from saewatch.core.errors import ConfigError, SaewatchError, UnreachableError
from saewatch.dictionary.keys import read_private, read_trusted
from tests.dictionary.signing import key


def test_what_one_half_signs_the_other_knows(tmp_path: Path) -> None:
    private = read_private(key(tmp_path, "ada", trusted=tmp_path / "trusted"))
    (public,) = read_trusted(tmp_path / "trusted")
    assert (public.name, public.id) == ("ada", private.id)
    signature = private.sign(b"data")
    assert public.made(signature, b"data")
    assert not public.made(signature, b"datum")
    assert not public.made(b"short", b"data")
    assert "PRIVATE" not in repr(private)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_keys_of_openssl(tmp_path: Path) -> None:
    """As the page says how to make them; the id is what openssl says of the public half."""
    (tmp_path / "trusted").mkdir()
    pem, pub = tmp_path / "release.pem", tmp_path / "trusted" / "ada.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", pem], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", pem, "-pubout", "-out", pub], check=True)
    pem.chmod(0o600)
    der = subprocess.run(["openssl", "pkey", "-in", pem, "-pubout", "-outform", "DER"], check=True, capture_output=True)
    digest = subprocess.run(["openssl", "sha256", "-r"], input=der.stdout, check=True, capture_output=True).stdout
    assert read_private(pem).id == f"sha256:{digest.split()[0].decode()}"
    assert read_trusted(tmp_path / "trusted")[0].id == read_private(pem).id


def test_a_private_key_that_is_refused(tmp_path: Path) -> None:
    path = key(tmp_path, "ada")
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="found a key that others may read"):
        read_private(path)
    path.chmod(0o600)
    locked = load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(locked.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(ConfigError, match="found a key with a password"):
        read_private(path)
    other = generate_private_key(SECP256R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigError, match="expected an Ed25519 key"):
        read_private(path)
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nx\n")
    with pytest.raises(ConfigError, match="found no key that can be read, expected an Ed25519 key"):
        read_private(path)
    path.write_bytes(b" " * 20_000)
    with pytest.raises(SaewatchError, match="at most 16384 bytes"):
        read_private(path)
    path.write_bytes(locked.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    path.chmod(0o644)  # as a public one may be: that is not what is wrong
    with pytest.raises(ConfigError, match="found a public key, expected the private one"):
        read_private(path)
    with pytest.raises(UnreachableError):
        read_private(tmp_path / "nowhere")


def test_a_folder_of_trusted_keys_that_is_refused(tmp_path: Path) -> None:
    trusted = tmp_path / "trusted"
    with pytest.raises(UnreachableError, match="found no folder"):
        read_trusted(trusted)
    trusted.mkdir()
    with pytest.raises(ConfigError, match="found 0 files"):
        read_trusted(trusted)
    key(tmp_path, "ada", trusted=trusted)
    shutil.copy(trusted / "ada.pub", trusted / "bob.pub")
    with pytest.raises(ConfigError, match="found the key of ada"):
        read_trusted(trusted)
    other = generate_private_key(SECP256R1()).public_key()
    (trusted / "bob.pub").write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ConfigError, match="Ed25519 public key"):
        read_trusted(trusted)
    (trusted / "bob.pub").write_text("ada")
    with pytest.raises(ConfigError, match="Ed25519 public key"):
        read_trusted(trusted)
    (trusted / "bob.pub").rename(trusted / "README")
    with pytest.raises(ConfigError, match=r"expected NAME\.pub"):
        read_trusted(trusted)
