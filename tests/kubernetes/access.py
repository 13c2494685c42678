"""How to reach an API server: what a kubeconfig says of it."""

import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

_LINE = 2**22
"""Bytes: the longest event of a watch."""


@dataclass(frozen=True)
class Access:
    """One server and the tokens of its users."""

    url: str
    tokens: Mapping[str, str]
    """By name in the kubeconfig; the current context's is `admin`."""
    tls: ssl.SSLContext | bool = True

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read the current context.

        Raises:
            KeyError: it names no cluster or no user that is there.
            ValueError: its user has no token; certificates and plugins would also sign the anonymous requests.
        """
        config = yaml.safe_load(path.read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        tokens = {user["name"]: user["user"]["token"] for user in config["users"] if "token" in user["user"]}
        if context["user"] not in tokens:
            raise ValueError(f"{path}: user {context['user']} needs a token: kubectl create token …")
        return cls(cluster["server"], tokens | {"admin": tokens[context["user"]]}, _tls(cluster, path.parent))

    def session(self, user: str = "") -> aiohttp.ClientSession:
        """A client of this server, anonymous unless told who it is."""
        headers = {"Authorization": f"Bearer {self.tokens[user]}"} if user else {}
        connector = aiohttp.TCPConnector(ssl=self.tls, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        return aiohttp.ClientSession(
            self.url, connector=connector, headers=headers, timeout=timeout, read_bufsize=_LINE
        )


def kubeconfig(path: Path, url: str, tokens: Mapping[str, str]) -> Path:
    """Write a file with one context for each user, named like it; the first is current."""
    names = list(tokens)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": names[0],
        "contexts": [{"name": name, "context": {"cluster": "k", "user": name}} for name in names],
        "clusters": [{"name": "k", "cluster": {"server": url}}],
        "users": [{"name": name, "user": {"token": token}} for name, token in tokens.items()],
    }
    path.write_text(yaml.safe_dump(config))
    return path


def _named(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for item in items:
        if item["name"] == name:
            return item
    raise KeyError(name)


def _tls(cluster: dict[str, Any], folder: Path) -> ssl.SSLContext | bool:
    if cluster.get("insecure-skip-tls-verify"):
        return False
    if data := cluster.get("certificate-authority-data"):
        return ssl.create_default_context(cadata=base64.b64decode(data).decode())
    if file := cluster.get("certificate-authority"):
        return ssl.create_default_context(cafile=folder / file)
    return True
