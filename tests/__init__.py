"""The tests: a folder for each wing; `journeys` for what users do; `faults`."""

import pytest

# So that a failing assertion there says what it compared.
pytest.register_assert_rewrite("tests.faults", "tests.support")
