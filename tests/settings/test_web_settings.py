"""The settings of the pages: each wrong value is one line that says what is right."""

from __future__ import annotations

import pytest

from oops_celery import settings
from oops_celery.errors import SettingsError


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("OOPS_WEB_URL", "oops.example", "https://oops.example"),
        ("OOPS_WEB_URL", "ftp://oops.example", "https://"),
        ("OOPS_WEB_URL", "https://oops.example/?q=1", "https://"),
        ("OOPS_WEB_URL", "https://oops.example:no/", "https://"),
        ("OOPS_WEB_URL", "https://user:pw@oops.example/", "https://"),
        ("OOPS_WEB_PUBLIC", "perhaps", "true or false"),
        ("OOPS_WEB_TRUST_HEADER", "X Forwarded", "X-Forwarded-User"),
        ("OOPS_WEB_TRUSTED_PROXY", "10.0.0.1/8", "10.0.0.0/8"),
        ("OOPS_WEB_TRUSTED_PROXY", "proxy.example", "10.0.0.0/8"),
        ("OOPS_WEB_SECRET", "short", "16 characters"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load({name: value})
    assert name in str(caught.value)
    assert told in str(caught.value)


def test_a_secret_is_never_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load({"OOPS_WEB_SECRET": "s3cr3t"})
    assert "s3cr3t" not in str(caught.value)
    loaded = settings.load({"OOPS_WEB_SECRET": "s3cr3t" * 4})
    assert "s3cr3t" not in repr(loaded)


def test_a_password_in_the_url_is_never_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load({"OOPS_WEB_URL": "https://user:s3cr3t@oops.example/"})
    assert "s3cr3t" not in str(caught.value)


def test_right_values_are_read() -> None:
    loaded = settings.load(
        {
            "OOPS_WEB_URL": "https://example.org/oops/",
            "OOPS_WEB_TRUSTED_PROXY": "10.0.0.0/8, ::1",
        }
    )
    assert loaded.web_url == "https://example.org/oops"
    assert [str(one) for one in loaded.web_trusted_proxy] == ["10.0.0.0/8", "::1/128"]
