"""An object store that can be made silent or dead: moto's server behind a proxy of ours, so that
what it holds survives."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

BUCKET = "soak"


class Proxy:
    """Passes bytes between a port of its own and the server's; `mode` says how it behaves now."""

    def __init__(self, server_port: int) -> None:
        self.server_port, self.mode = server_port, "open"
        self.cut = 0
        """Connections that were cut."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def down(self, seconds: float, mode: str) -> None:
        """`silent`: what is sent waits. `dead`: connections are cut and new ones refused."""
        self.mode = mode
        if mode == "dead":
            for pair in list(self._pairs):
                for end in pair:
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                        self.cut += 1
        time.sleep(seconds)
        self.mode = "open"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.mode == "dead":
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.server_port))
            self._pairs.append((client, server))
            threading.Thread(target=self._pass, args=(client, server), daemon=True).start()

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        chooser = selectors.DefaultSelector()
        chooser.register(client, selectors.EVENT_READ, server)
        chooser.register(server, selectors.EVENT_READ, client)
        with suppress(OSError):
            while True:
                for key, _ in chooser.select():
                    while self.mode == "silent":
                        time.sleep(0.02)
                    data = key.fileobj.recv(1 << 16)  # pyright: ignore
                    if not data:
                        raise ConnectionError("one side has ended")
                    key.data.sendall(data)
        chooser.close()
        for end in (client, server):
            end.close()
        self._pairs.remove((client, server))

    def close(self) -> None:
        self._listener.close()


@contextmanager
def store() -> Iterator[Proxy]:
    """moto's server and the proxy; the environment of this process and its children reaches it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, **quiet)  # pyright: ignore
    proxy = Proxy(port)
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}", "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    try:
        _wait_for(port)
        yield proxy
    finally:
        proxy.close()
        server.terminate()
        server.wait()


def _wait_for(port: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"moto does not answer on port {port}")


def make_bucket() -> None:
    """In a child: boto3 keeps connections."""
    import boto3

    boto3.client("s3").create_bucket(Bucket=BUCKET)
