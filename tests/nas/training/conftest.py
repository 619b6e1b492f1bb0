"""A store of checkpoints in memory, for the tests of training."""

import pytest

from nas.training.checkpoints import Store


class MemoryStore(Store):
    """Store that keeps all writes."""

    def __init__(self, content=None):
        self.written = [] if content is None else [content]

    def read(self):
        return self.written[-1] if self.written else None

    def write(self, content):
        self.written.append(content)


@pytest.fixture(scope="session")
def memory_store():
    return MemoryStore
