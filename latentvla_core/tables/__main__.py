"""Writes docs/tables.md to standard output."""

from latentvla_core.schema import page
from latentvla_core.tables import TABLES

print(page(TABLES), end="")
