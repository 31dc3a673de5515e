"""The function's environment and event: what is accepted, and how what is not is named."""

from datetime import timedelta

import pytest

from keeper_runtime.settings import RefreshSettings, RunOptions
from qwen_token import ConfigError
from tests.minting import mint

GOOD = {
    "SECRET_ID": "arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/token-a1b2c3",
    "API_BASE_URL": "https://chat.qwen.ai",
    "REFRESH_BEFORE_DAYS": "3",
    "CRITICAL_DAYS": "1",
    "ALERT_TOPIC_ARN": "arn:aws:sns:eu-west-1:111122223333:alerts",
}


def test_a_good_environment_is_read() -> None:
    settings = RefreshSettings.from_environ({**GOOD, "REFRESH_BEFORE_DAYS": "2.5"})

    assert settings.secret_id == GOOD["SECRET_ID"]
    assert settings.api_base_url == "https://chat.qwen.ai"
    assert settings.refresh_before == timedelta(days=2, hours=12)
    assert settings.critical_before == timedelta(days=1)
    assert settings.alert_topic_arn == GOOD["ALERT_TOPIC_ARN"]


@pytest.mark.parametrize(
    "url",
    [
        "https://chat.qwen.ai/",
        "https://proxy.example:8443/qwen",
        "http://127.0.0.1:8080",
        "http://127.1.2.3",
        "http://localhost:1",
        "http://[::1]:8080",
    ],
)
def test_a_url_that_keeps_the_token_safe_is_accepted(url: str) -> None:
    assert RefreshSettings.from_environ({**GOOD, "API_BASE_URL": url}).api_base_url == url.rstrip(
        "/"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET_ID", ""),
        ("SECRET_ID", "   "),
        ("ALERT_TOPIC_ARN", ""),
        ("ALERT_TOPIC_ARN", "alerts"),
        ("API_BASE_URL", ""),
        ("API_BASE_URL", "chat.qwen.ai"),
        ("API_BASE_URL", "http://chat.qwen.ai"),
        ("API_BASE_URL", "http://127.0.0.1.example.com"),
        ("API_BASE_URL", "http://10.0.0.1"),
        ("API_BASE_URL", "http://localhost.example.com"),
        ("API_BASE_URL", "https://"),
        # Nobody's password:
        # pragma: allowlist nextline secret
        ("API_BASE_URL", "https://user:password@chat.qwen.ai"),
        ("API_BASE_URL", "https://user@chat.qwen.ai"),
        ("API_BASE_URL", "https://chat.qwen.ai?x=1"),
        ("API_BASE_URL", "https://chat.qwen.ai#x"),
        ("API_BASE_URL", "https://chat.qwen.ai:port"),
        ("API_BASE_URL", "https://[::1"),
        ("API_BASE_URL", "ftp://127.0.0.1"),
        ("REFRESH_BEFORE_DAYS", ""),
        ("REFRESH_BEFORE_DAYS", "three"),
        ("REFRESH_BEFORE_DAYS", "0"),
        ("REFRESH_BEFORE_DAYS", "-1"),
        ("REFRESH_BEFORE_DAYS", "nan"),
        ("REFRESH_BEFORE_DAYS", "inf"),
        ("REFRESH_BEFORE_DAYS", "1e300"),
        ("REFRESH_BEFORE_DAYS", "1e-12"),
        ("CRITICAL_DAYS", "0"),
        ("CRITICAL_DAYS", "1e-12"),
        ("CRITICAL_DAYS", "3.01"),
    ],
)
def test_a_variable_that_is_off_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        RefreshSettings.from_environ({**GOOD, name: value})


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_variable_is_named_and_no_other(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RefreshSettings.from_environ({key: value for key, value in GOOD.items() if key != name})
    assert [other for other in GOOD if f"{other} should" in str(caught.value)] == [name]


def test_everything_that_is_off_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        RefreshSettings.from_environ({})
    assert all(name in str(caught.value) for name in GOOD)


@pytest.mark.parametrize(
    ("event", "options"),
    [
        ({}, RunOptions()),
        ({"force": True}, RunOptions(force=True)),
        ({"dry_run": True}, RunOptions(dry_run=True)),
        ({"force": False, "dry_run": True}, RunOptions(dry_run=True)),
    ],
)
def test_a_good_event_is_read(event: object, options: RunOptions) -> None:
    assert RunOptions.from_event(event) == options


@pytest.mark.parametrize(
    ("event", "named"),
    [
        (None, "NoneType"),
        ([], "list"),
        ("force", "str"),
        ({"forced": True}, "'forced'"),
        ({"force": 1}, "force should be true or false"),
        ({"force": "true"}, "force should be true or false"),
        ({"dry_run": None}, "dry_run should be true or false"),
        ({"Force": True, "dry_run": 0}, "dry_run should be true or false"),
    ],
)
def test_an_event_that_is_off_is_named(event: object, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        RunOptions.from_event(event)


def test_a_token_pasted_as_a_key_or_a_value_is_not_repeated() -> None:
    token = mint({"id": "alice"})
    with pytest.raises(ConfigError) as caught:
        RunOptions.from_event({token: True, "token": token, "force": token})
    assert "eyJ" not in str(caught.value)
    assert "'token'" in str(caught.value)
