"""Where a deployment lies: its home and its lake, from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from latentvla_core.errors import SetupError


def home_folder(env: Mapping[str, str] | None = None) -> Path:
    """Working folder of this deployment: $LATENTVLA_HOME, else .latentvla in the current folder."""
    text = (os.environ if env is None else env).get("LATENTVLA_HOME") or ".latentvla"
    return usable_folder("LATENTVLA_HOME", text)


def usable_folder(variable: str, text: str) -> Path:
    """A folder out of the environment, `~` expanded. Raises SetupError naming the variable when
    databases below it could not be addressed.
    """
    if odd := next((sign for sign in "%?" if sign in text), ""):
        raise SetupError(
            f"{variable} is {text!r}; {odd!r} means something else in the address of a database:"
            " use a folder without it"
        )
    return Path(text).expanduser().absolute()


def lake_root(env: Mapping[str, str] | None = None) -> str:
    """Root of the Delta tables: $LATENTVLA_LAKE (a folder or s3://…), else `lake` in the working
    folder.
    """
    return (os.environ if env is None else env).get("LATENTVLA_LAKE") or str(
        home_folder(env) / "lake"
    )


def without_password(text: str) -> str:
    """A text in which addresses (`postgresql://user:password@host/…?password=…`) lack what is
    secret.
    """
    text = re.sub(r"(\w://[^\s:/@]*):[^\s/]*@", r"\1:***@", text)
    return re.sub(r"(?i)([?&][\w-]*(?:password|secret|token|key)[\w-]*=)[^&\s'\"]+", r"\1***", text)
