"""What a worker needs, in a line; test_package has real environments without it."""

from __future__ import annotations

import billiard
import celery
import pytest

from oops_celery.errors import SettingsError
from oops_celery.settings import requirements


@pytest.mark.parametrize(
    ("module", "version", "said"),
    [
        (celery, "5.4.0", "celery>=5.5, and this is celery 5.4.0"),
        (celery, "5.5.0rc1", None),
        (celery, "5.10.0", None),
        (celery, "6.0", None),
        (billiard, "4.3.0", "billiard>=4.3.1, and this is billiard 4.3.0"),
        (billiard, "4.10", None),
    ],
)
def test_an_older_one_is_named(
    module: object, version: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "__version__", version)
    if said is None:
        requirements.check_worker()
        return
    with pytest.raises(SettingsError) as caught:
        requirements.check_worker()
    text = str(caught.value)
    assert text == f"a worker needs {said}: pip install 'celery-oops[worker]'"


def test_only_what_the_extra_brings_is_a_line() -> None:
    told = requirements.missing(ImportError(name="yaml"), "OOPS_TOPOLOGY")
    assert str(told).startswith("OOPS_TOPOLOGY needs PyYAML and pydantic: pip install")
    assert requirements.missing(ImportError(name="shop"), "OOPS_TOPOLOGY") is None
