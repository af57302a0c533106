"""These tests make environments of their own, which nothing outside may change."""

import pytest


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.delenv(name, raising=False)
