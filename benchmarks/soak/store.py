"""An object store that can be made silent, or stopped and started: moto's server, and a door before
it, so that what the server holds survives.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

BUCKET = "soak"
MODES = ("silent", "restarted")


class ObjectStore:
    """Both processes; clients know the door's port, which stays."""

    def __init__(self, server: list[str], server_port: int) -> None:
        self.server = _start(server, server_port)
        self.server_port, self.port = server_port, free_port()
        self.door = self._open()

    def hurt(self, mode: str, seconds: float) -> None:
        """Away for so long, then back."""
        self.leave(mode)
        time.sleep(seconds)
        self.come_back(mode)

    def leave(self, mode: str) -> None:
        """`silent`: the server is stopped (SIGSTOP), what is sent waits. `restarted`: connections
        are cut, new ones refused, until it is there again.
        """
        if mode == "silent":
            self.server.send_signal(signal.SIGSTOP)
        else:
            self.door.kill()
            self.door.wait()

    def come_back(self, mode: str) -> None:
        if mode == "silent":
            self.server.send_signal(signal.SIGCONT)
        else:
            self.door = self._open()

    def close(self) -> None:
        for process in (self.door, self.server):
            process.kill()
            process.wait()

    def _open(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.soak.door", str(self.port)]
        return _start([*command, str(self.server_port)], self.port)


@contextmanager
def store() -> Iterator[ObjectStore]:
    """moto's; the environment of this process and its children reaches it."""
    port = free_port()
    made = ObjectStore(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port
    )
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{made.port}", "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    try:
        yield made
    finally:
        made.close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _start(command: list[str], port: int) -> subprocess.Popen[bytes]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet)  # pyright: ignore
    wait_for(port)
    return process


def wait_for(port: int, longest_s: float = 120.0) -> None:
    end = time.monotonic() + longest_s
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing answers on port {port} after {longest_s:.0f} s")


def make_bucket() -> None:
    """In a child: boto3 keeps connections."""
    import boto3

    boto3.client("s3").create_bucket(Bucket=BUCKET)
