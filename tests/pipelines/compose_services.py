"""docker-compose.yml's services as processes: its commands, hosts and variables, beside a PostgreSQL
and an S3 server of this machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import yaml
from object_store import free_port, start_store, wait_for_port

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
WITHOUT = "PostgreSQL is not installed: apt install postgresql"
PORTS = {"postgres:5432": 0, "objects:8333": 0, "mlflow:5000": 0, "code:4000": 0, "web:3000": 0}


class Services:
    """The file's services on ports of this machine, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ports = folder, {place: free_port() for place in PORTS}
        self.running: dict[str, subprocess.Popen] = {}
        home = folder / "dagster_home"
        home.mkdir(parents=True)
        text = (ROOT / "deploy" / "dagster.yaml").read_text()
        (home / "dagster.yaml").write_text(self.here(text))
        self.workspace = folder / "workspace.yaml"
        text = (ROOT / "deploy" / "workspace.yaml").read_text()
        assert "host: code, port: 4000" in text
        place = f"host: 127.0.0.1, port: {self.ports['code:4000']}"
        self.workspace.write_text(text.replace("host: code, port: 4000", place))

    def here(self, text: str) -> str:
        """The same text with hosts, ports and folders of this test."""
        secrets = {"POSTGRES_PASSWORD": "secret", "LATENTVLA_RECIPE": "debug"}
        text = re.sub(
            r"\$\{(\w+)(?::[-?]([^}]*))?\}",
            lambda found: secrets.get(found[1], "test" if "AWS" in found[1] else ""),
            str(text),
        )
        for place, port in self.ports.items():
            text = text.replace(place, f"127.0.0.1:{port}")
        text = text.replace("/opt/latentvla/dagster_home", str(self.folder / "dagster_home"))
        return text.replace("/var/lib/latentvla", str(self.folder / "work"))

    def environment(self, service: str) -> dict[str, str]:
        given = {k: self.here(v) for k, v in COMPOSE["services"][service]["environment"].items()}
        scripts = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, **given, "PATH": scripts, "PYTHONPATH": str(ROOT)}

    def command(self, service: str) -> list[str]:
        text = COMPOSE["services"][service]["command"]
        allowed = re.search(r"--allowed-hosts \S+", text)
        own = {"mlflow": "mlflow:5000", "code": "code:4000", "webserver": "web:3000"}
        if service in own:
            port = own[service].partition(":")[2]
            text = re.sub(rf"(-p|--port) {port}", rf"\1 {self.ports[own[service]]}", text)
        text = self.here(text).replace("deploy/workspace.yaml", str(self.workspace))
        if allowed:  # as written, with the port that stands for mlflow's beside it
            extra = f"{allowed[0]},127.0.0.1:{self.ports['mlflow:5000']}"
            text = re.sub(r"--allowed-hosts \S+", extra, text)
        return shlex.split(text)

    def start(self, service: str, port: str = "") -> None:
        log = (self.folder / f"{service}.log").open("w")
        self.running[service] = subprocess.Popen(
            self.command(service), env=self.environment(service), cwd=ROOT, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        if port:
            wait_for_port(self.ports[port], 600)

    def stop(self) -> None:
        for process in reversed(self.running.values()):
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
        subprocess.run(self.postgres("pg_ctl", "stop", "-m", "immediate"), check=False)

    def postgres(self, program: str, *more: str) -> list[str]:
        user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        return [*user, str(POSTGRES[-1] / program), "-D", str(self.folder / "pg"), *more]

    def start_postgres(self) -> None:
        """As the image does: user, database and the file that is mounted into it."""
        if os.geteuid() == 0:
            for parent in (self.folder, *self.folder.parents[:3]):
                if str(parent) != "/tmp":
                    parent.chmod(0o755)
            (self.folder / "pg").mkdir()
            shutil.chown(self.folder / "pg", "postgres", "postgres")
        password = self.folder / "password"
        password.write_text("secret")
        password.chmod(0o644)
        user = COMPOSE["services"]["postgres"]["environment"]["POSTGRES_USER"]
        new = ["-U", user, "--pwfile", str(password), "-A", "scram-sha-256"]
        subprocess.run(self.postgres("initdb", *new), check=True, stdout=subprocess.DEVNULL)
        port = self.ports["postgres:5432"]
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        begun = self.postgres("pg_ctl", "start", "-w", "-l", "/dev/null", "-o", options)
        subprocess.run(begun, check=True, stdout=subprocess.DEVNULL)
        sql = ["CREATE DATABASE dagster", (ROOT / "deploy" / "postgres.sql").read_text()]
        place = f"postgresql://{user}:secret@127.0.0.1:{port}/postgres"
        for text in sql:
            subprocess.run(["psql", "-q", place, "-c", text], check=True)

    def start_stores(self) -> None:
        """PostgreSQL and the object store, with the bucket made as the file does it."""
        self.start_postgres()
        self.running["objects"] = start_store(self.ports["objects:8333"])
        prepared = subprocess.run(
            self.command("prepare"), env=self.environment("prepare"), cwd=ROOT, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        assert prepared.returncode == 0, prepared.stderr

    def ask(self, query: str, **variables) -> dict:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['web:3000']}/graphql",
            body, {"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["data"]

    def logs(self) -> str:
        return "\n".join(
            f"--- {p.name}\n{p.read_text()[-2000:]}" for p in self.folder.glob("*.log")
        )
