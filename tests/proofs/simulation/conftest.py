"""What the simulation keeps to itself: nobody reads the log of thousands of runs."""

import logging

import pytest

import handler


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in logging.getLogger(handler.logger.service).handlers:
        monkeypatch.setattr(each, "level", logging.CRITICAL)
