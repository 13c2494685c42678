"""A server that speaks TLS is trusted by its authority, and by nothing else."""

import subprocess
from pathlib import Path

import pytest

from evolvent.errors import Unreachable
from evolvent.platform import dial
from evolvent.settings import Settings
from tests.platform.servers import Node, free_ports


def certificate(folder: Path) -> tuple[Path, Path]:
    key, cert = folder / "key.pem", folder / "cert.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*made, "-days", "2", "-keyout", key, "-out", cert, *subject], check=True, capture_output=True)
    return key, cert


async def test_the_named_authority_is_trusted_and_no_other_server(tmp_path: Path) -> None:
    key, cert = certificate(tmp_path)
    node = Node(tmp_path / "n0", free_ports(1)[0], f'tls {{ cert_file: "{cert}", key_file: "{key}" }}')
    await node.start()
    settings = Settings(home=tmp_path, nats_url=node.url.replace("nats://", "tls://"), nats_ca=cert)
    try:
        async with dial(settings, "test") as wire:
            assert wire.client.is_connected
        with pytest.raises(Unreachable, match="certificate verify failed"):
            async with dial(settings.model_copy(update={"nats_ca": None}), "test", patience=1.0):
                pass
        with pytest.raises(Unreachable, match="EVOLVENT_NATS_CA"):
            async with dial(settings.model_copy(update={"nats_ca": tmp_path / "none.pem"}), "test"):
                pass
    finally:
        await node.kill()
