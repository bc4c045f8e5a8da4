"""Tests, in folders that mirror the packages of lgkd."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
GOLDEN = CHECKOUT / "tests" / "golden"
