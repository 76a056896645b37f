"""How much memory a reader takes for a file that declares more than it should."""

import tracemalloc
from contextlib import contextmanager

import pytest


@pytest.fixture
def at_most():
    """``at_most(n)``: fail if Python and numpy allocate more than n bytes at once in the ``with`` block."""

    @contextmanager
    def measured(n_bytes):
        tracemalloc.start()
        try:
            yield
            assert tracemalloc.get_traced_memory()[1] < n_bytes
        finally:
            tracemalloc.stop()

    return measured
