"""The stand-in device, registered once a process. Without a compiler its tests fail: they run where they are wanted."""

import pytest

from tests.support import standin


@pytest.fixture(scope="session")
def device() -> str:
    return standin.load()
