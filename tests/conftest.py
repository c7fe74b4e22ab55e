import pytest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No test depends on what lies in the working directory: prepared corpora, runs, reports."""
    monkeypatch.chdir(tmp_path)
