"""A driver behind HTTP, for simulators that speak files or HTTP (HUGSIM, NeuroNCAP) and for the
NAVSIM agent: the standard library alone.

    GET  /health  → {"planner", "cameras", "poses"}
    POST /start   {"seed": 0} → {}            a new drive begins
    POST /drive   a moment (moments.py) → {"poses": 8 x [x_m, y_m, yaw_rad], "seconds": …}

What cannot be used is answered with 400 and {"error": the reason}; a plan is never NaN.
"""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from latentvla_core.closed_loop.driver import PLAN_PERIOD_S, Driver
from latentvla_core.doors.seat import Seat
from latentvla_core.errors import DataError, LatentVLAError
from latentvla_core.types import PLAN_STEPS

LARGEST_BODY_B = 256 * 1024**2
"""Eight pictures of 1920 x 1080 as arrays in base64 are 66 MB."""


class DriverServer(ThreadingHTTPServer):
    """Serves one seat; `port` 0 takes a free one."""

    daemon_threads = True

    def __init__(self, driver: Driver, host: str = "127.0.0.1", port: int = 0) -> None:
        self.seat = Seat(driver)
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_address[1]}"

    def told(self) -> dict[str, Any]:
        """What /health says."""
        driver = self.seat.driver
        times = [PLAN_PERIOD_S * (k + 1) for k in range(PLAN_STEPS)]
        return {"planner": driver.name, "cameras": list(driver.cameras), "poses_at_s": times}


class _Handler(BaseHTTPRequestHandler):
    server: DriverServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path != "/health":
            return self._answer(404, {"error": f"{self.path} is unknown; GET /health"})
        self._answer(200, self.server.told())

    def do_POST(self) -> None:
        try:
            message = self._message()
            self._answer(200, self._done(message))
        except LatentVLAError as error:
            self._answer(400, {"error": str(error)})
        except Exception as error:
            # A simulator that waits for an answer must get one; the traceback stays here.
            self.log_error("%s: %s", type(error).__name__, error)
            self._answer(500, {"error": f"{type(error).__name__}: {error}"})

    def _done(self, message: Any) -> dict[str, Any]:
        if self.path == "/start":
            seed = message.get("seed", 0) if isinstance(message, dict) else None
            if not isinstance(seed, int):
                raise DataError(f"seed is {seed!r}; it has to be a whole number")
            self.server.seat.start(seed)
            return {}
        if self.path != "/drive":
            raise DataError(f"{self.path} is unknown; POST /drive or /start")
        began = time.perf_counter()
        poses = self.server.seat.drive(message)
        return {"poses": poses.tolist(), "seconds": round(time.perf_counter() - began, 6)}

    def _message(self) -> Any:
        length = int(self.headers.get("Content-Length") or 0)
        if length > LARGEST_BODY_B:
            self.close_connection = True
            raise DataError(
                f"the message has {length:,} bytes; at most {LARGEST_BODY_B:,} are read"
            )
        body = self.rfile.read(length)
        try:
            return json.loads(body or b"{}")
        except ValueError as error:
            raise DataError(f"the message is no JSON ({error})") from error

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """A line per plan would drown what matters."""
