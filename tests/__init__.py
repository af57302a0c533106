"""A package, so that no other one named `tests` takes its place (see conftest.py)."""
