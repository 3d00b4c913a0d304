"""Certificates, tokens and request bodies, made anew when a day old.

Owns everything secret that a run uses; all of it lies in `bench/out/material`,
is readable by the owner alone, and is worth nothing elsewhere.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import shutil
import subprocess
import time

ISSUER = "intellirouter"
AUDIENCE = "intellirouter-services"
ROLE = "user"
PREFIX = 5
REUSE_SECONDS = 86400


class Material:
    """Where everything lies, and how tokens are signed."""

    def __init__(self, directory):
        self.directory = directory
        self.ca = self.cert("ca")
        self.secret_file = self.path("hs256.secret")
        self.authorization_file = self.path("authorization")
        self.small = self.path("128.bin")
        self.large = self.path("64k.bin")

    @classmethod
    def make(cls, directory):
        made = cls(directory)
        # Written last: where it is, everything is.
        if os.path.exists(made.large) and time.time() - os.stat(made.large).st_mtime < REUSE_SECONDS:
            return made
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory, mode=0o700)
        made._make_ca()
        made.make_leaf("gateway", "serverAuth")
        made.make_leaf("backend", "serverAuth")
        made.make_leaf("client", "clientAuth")
        made.make_key("identity")
        # HAProxy wants chain and key of what it shows in one file.
        for name in ("gateway", "client"):
            write(made.both(name), read(made.cert(name)) + read(made.key(name)))
        write(made.secret_file, secrets.token_hex(32).encode())
        write(made.authorization_file, b"Bearer " + made.sign([ROLE]).encode())
        write(made.small, message(128))
        write(made.large, message(65536))
        return made

    def path(self, name):
        return os.path.join(self.directory, name)

    def cert(self, name):
        return self.path(name + ".crt")

    def key(self, name):
        return self.path(name + ".key.pem")

    def both(self, name):
        return self.path(name + ".both.pem")

    def sign(self, roles, secret=None, lifetime=7 * 86400, subject="bench"):
        now = int(time.time())
        claims = {"sub": subject, "iss": ISSUER, "aud": AUDIENCE,
                  "exp": now + lifetime, "iat": now, "roles": roles}
        head = base64url(compact({"alg": "HS256", "typ": "JWT"}))
        signed = head + "." + base64url(compact(claims))
        key = secret or read(self.secret_file)
        return signed + "." + base64url(hmac.new(key, signed.encode(), hashlib.sha256).digest())

    def _make_ca(self):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                      "-nodes", "-days", "30", "-subj", "/CN=bench CA",
                      "-addext", "keyUsage=critical,keyCertSign,cRLSign",
                      "-keyout", self.key("ca"), "-out", self.ca)

    def make_key(self, name):
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256",
                "-out", self.key(name))

    def make_leaf(self, name, usage):
        request = self.path(name + ".csr")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                      "-subj", "/CN=" + name, "-keyout", self.key(name), "-out", request)
        extensions = self.path(name + ".ext")
        write(extensions, (
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
            f"extendedKeyUsage={usage}\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n").encode())
        openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.key("ca"),
                      "-CAcreateserial", "-days", "30", "-extfile", extensions,
                      "-out", self.cert(name))


def openssl(*arguments):
    done = subprocess.run(("openssl", *arguments), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr.strip()}")


def write(path, content):
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


def message(size):
    """A gRPC message of `size` bytes behind its prefix: protobuf `bytes data = 1`."""
    data = size
    while 1 + len(varint(data)) + data > size:
        data -= 1
    body = b"\x0a" + varint(data) + b"x" * data
    return b"\0" + size.to_bytes(4, "big") + body


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


def read(path):
    with open(path, "rb") as file:
        return file.read()
