"""Settings: one table, all problems at once."""

from pathlib import Path

import pytest

from wattstream.domain.alerts import AlertKind
from wattstream.domain.errors import SettingsError
from wattstream.settings import PREFIX, Settings, load

REFERENCE = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"


def test_flags_win_over_the_environment_and_that_over_defaults() -> None:
    environ = {"WATTSTREAM_PORT": "9000", "WATTSTREAM_HOST": "", "OTHER": "x"}
    assert load({}, environ).port == 9000
    assert load({"port": "9001", "host": None}, environ).port == 9001
    assert load({}, environ).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10min", 600), ("2 h", 7200), ("400d", 34560000)],
)
def test_durations_are_written_with_units(text: str, seconds: int) -> None:
    assert load({"max_past": text}, {}).max_past == seconds


def test_variables_of_the_tests_are_no_settings() -> None:
    assert load({}, {"WATTSTREAM_TEST_DATA": "/somewhere"}).port == 8000


def test_sizes_are_written_with_units() -> None:
    assert load({"max_body": "2MiB"}, {}).max_body == 2 * 1024**2


@pytest.mark.parametrize("workers", ["0", "65", "two"])
def test_the_number_of_workers_has_bounds(workers: str) -> None:
    with pytest.raises(SettingsError, match="WATTSTREAM_WORKERS"):
        load({"workers": workers}, {})


def test_every_problem_is_named_at_once_with_what_to_do() -> None:
    environ = {
        "WATTSTREAM_PORT": "ninety",
        "WATTSTREAM_MAX_PAST": "long",
        "WATTSTREAM_PROT": "9000",
        "WATTSTREAM_LOG_LEVEL": "loud",
    }
    with pytest.raises(SettingsError) as caught:
        load({}, environ)
    message = caught.value.message
    assert "WATTSTREAM_PORT='ninety'" in message
    assert "WATTSTREAM_MAX_PAST='long'" in message
    assert "400d" in message
    assert "did you mean WATTSTREAM_PORT?" in message
    assert "WATTSTREAM_LOG_LEVEL='loud'" in message


def test_a_password_in_a_setting_is_never_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        load({"database_url": 5}, {})
    assert "5" not in caught.value.message.splitlines()[1].split(":")[0]


def test_every_setting_has_help_and_is_documented() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert f"`{PREFIX}{name.upper()}`" in text, f"{name} is missing in {REFERENCE.name}"


def test_a_webhook_needs_a_secret_and_neither_is_ever_shown() -> None:
    url = "https://hooks.example/very-secret-path"
    with pytest.raises(SettingsError, match="WATTSTREAM_WEBHOOK_SECRET is not set"):
        load({"webhook_url": url}, {})
    with pytest.raises(SettingsError) as caught:
        load({"webhook_url": "ftp://very-secret", "webhook_secret": "too short"}, {})
    message = caught.value.message
    assert "WATTSTREAM_WEBHOOK_URL=(hidden)" in message
    assert "WATTSTREAM_WEBHOOK_SECRET=(hidden)" in message
    assert "very-secret" not in message
    assert "too short" not in message
    assert load({"webhook_url": url, "webhook_secret": "x" * 16}, {}).webhook_url == url


def test_thresholds_of_alerts_are_settings_with_bounds() -> None:
    thresholds = load({"efficiency_threshold": "0.8", "alert_silent": "3"}, {}).alert_thresholds()
    assert thresholds[AlertKind.LOW_EFFICIENCY] == 0.8
    assert thresholds[AlertKind.SILENT] == 3
    assert thresholds[AlertKind.BATTERY_HOT] == 55
    with pytest.raises(SettingsError, match="WATTSTREAM_ALERT_BATTERY_HOT"):
        load({"alert_battery_hot": "5000"}, {})


def test_an_unknown_name_that_cannot_be_printed_is_escaped() -> None:
    with pytest.raises(SettingsError, match=r"'WATTSTREAM_P\\x1b\[2J\\udcffORT' is not a setting"):
        load({}, {"WATTSTREAM_P\x1b[2J\udcffORT": "1"})
