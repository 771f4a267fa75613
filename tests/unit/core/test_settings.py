"""The settings: what is there and empty is not set, as compose files and templates leave it."""

from __future__ import annotations

import pytest

from prefect_genmedia._prefect.session import prices_of
from prefect_genmedia.settings import GenMediaSettings, current_settings

PREFIX = "PREFECT_INTEGRATIONS_GENMEDIA_"


@pytest.mark.parametrize("empty", ["", " "], ids=["empty", "blank"])
@pytest.mark.parametrize("name", GenMediaSettings.model_fields)
def test_an_empty_variable_stands_for_the_default(name: str, empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}{name.upper()}", empty)
    assert getattr(current_settings(), name) == GenMediaSettings.model_fields[name].default


def test_a_variable_that_is_filled_in_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}CALLBACK_URL", "https://callbacks.example.com")
    monkeypatch.setenv(f"{PREFIX}CALLBACK_SECRET", "a long random text")
    settings = current_settings()
    assert settings.callback_url == "https://callbacks.example.com"
    assert settings.callback_secret
    assert settings.callback_secret.get_secret_value() == "a long random text"


def test_prices_of_ones_own_stand_in_place_of_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        f"{PREFIX}PRICES",
        '{"tokenops/OmniHuman_1.5": 1.5, "jenius/poster": {"per_job": 2.0}, "hidream/video_edit": 0.5}',
    )
    table = prices_of(current_settings())
    assert table["tokenops/OmniHuman_1.5"].of(10) == 15
    assert table["jenius/poster"].of(None) == 2
    assert table["tokenops/jimeng-video-3.0-pro"].of(5) == 5


def test_prices_that_are_no_json_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}PRICES", "1.5 a second")
    with pytest.raises(ValueError, match="prices"):
        current_settings()
