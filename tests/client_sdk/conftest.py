"""Two enclaves of the tests' own, as the network's are called."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.fake_enclave import FakeEnclave


@pytest.fixture
def ada() -> Iterator[FakeEnclave]:
    enclave = FakeEnclave("aa" * 16)
    yield enclave
    enclave.close()


@pytest.fixture
def bela() -> Iterator[FakeEnclave]:
    enclave = FakeEnclave("bb" * 16)
    yield enclave
    enclave.close()
