"""The function's environment and event: what is accepted, and how what is not is named."""

from datetime import timedelta

import pytest

from keeper_runtime.settings import RefreshSettings, RunOptions
from qwen_token import ConfigError
from qwen_token.policy import AlertPolicy
from tests.minting import mint

GOOD = {
    "SECRET_ID": "arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/token-a1b2c3",
    "SESSION_SECRET_ID": "arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/session-a1b2c3",
    "API_BASE_URL": "https://chat.qwen.ai",
    "AUTH_BASE_URL": "https://auth.qwen.ai",
    "WEB_VERSION": "0.3.12",
    "USER_AGENT": "Mozilla/5.0 (compatible; somebody)",
    "REFRESH_BEFORE_DAYS": "3",
    "CRITICAL_DAYS": "1",
    "ALERT_AFTER_MINUTES": "60",
    "STATE_TABLE": "state",
    "ALERT_TOPIC_ARN": "arn:aws:sns:eu-west-1:111122223333:alerts",
}
MAY_BE_EMPTY = {"SESSION_SECRET_ID", "AUTH_BASE_URL"}


def test_a_good_environment_is_read() -> None:
    settings = RefreshSettings.from_environ({**GOOD, "REFRESH_BEFORE_DAYS": "2.5"})

    assert settings.secret_id == GOOD["SECRET_ID"]
    assert settings.session_secret_id == GOOD["SESSION_SECRET_ID"]
    assert settings.api_base_url == "https://chat.qwen.ai"
    assert settings.auth_base_url == "https://auth.qwen.ai"
    assert settings.web_version == "0.3.12"
    assert settings.user_agent == GOOD["USER_AGENT"]
    assert settings.state_table == "state"
    assert settings.alert_policy() == AlertPolicy(
        alert_after=timedelta(hours=1),
        critical_before=timedelta(days=1),
        refresh_before=timedelta(days=2.5),
    )
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
    environ = {**GOOD, "API_BASE_URL": url, "AUTH_BASE_URL": url}
    settings = RefreshSettings.from_environ(environ)
    assert settings.api_base_url == settings.auth_base_url == url.rstrip("/")


@pytest.mark.parametrize("name", sorted(MAY_BE_EMPTY))
@pytest.mark.parametrize("value", ["", "  ", None])
def test_what_may_be_empty_may_be_left_out(name: str, value: str | None) -> None:
    environ = {key: given for key, given in GOOD.items() if key != name}
    settings = RefreshSettings.from_environ(environ if value is None else {**GOOD, name: value})
    assert getattr(settings, name.lower()) == ""


@pytest.mark.parametrize(
    ("api", "sign_in", "accepted"),
    [
        ("https://chat.qwen.ai", "https://auth.qwen.ai", True),
        ("https://CHAT.QWEN.AI", "https://auth.qwen.ai", True),
        ("https://qwen.ai", "https://auth.qwen.ai", True),
        ("http://127.0.0.1:8080", "https://auth.qwen.ai", True),
        ("https://chat.example.com", "", True),
        ("https://chat.example.com", "https://auth.example.com", True),
        ("https://chat.example.com", "https://auth.qwen.ai", False),
        ("https://chat.example.com", "https://auth.qwen.ai/", False),
        ("https://chat.example.com", "https://AUTH.qwen.ai", False),
        ("https://chat.example.com", "https://auth.qwen.ai:443", False),
        ("https://notqwen.ai", "https://auth.qwen.ai", False),
        ("https://chat.qwen.ai.example.com", "https://auth.qwen.ai", False),
    ],
)
def test_another_servers_password_never_goes_to_qwens_sign_in_host(
    api: str, sign_in: str, *, accepted: bool
) -> None:
    environ = {**GOOD, "API_BASE_URL": api, "AUTH_BASE_URL": sign_in}
    if accepted:
        assert RefreshSettings.from_environ(environ).auth_base_url == sign_in
        return
    with pytest.raises(ConfigError, match="AUTH_BASE_URL should be empty"):
        RefreshSettings.from_environ(environ)


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
        ("AUTH_BASE_URL", "auth.qwen.ai"),
        ("AUTH_BASE_URL", "http://auth.qwen.ai"),
        ("WEB_VERSION", ""),
        ("WEB_VERSION", "0.3\n.12"),
        ("USER_AGENT", ""),
        ("USER_AGENT", "Mözilla"),
        ("USER_AGENT", "x\r\nAuthorization: y"),
        ("USER_AGENT", 257 * "x"),
        ("ALERT_AFTER_MINUTES", ""),
        ("ALERT_AFTER_MINUTES", "-1"),
        ("ALERT_AFTER_MINUTES", "1.5"),
        ("ALERT_AFTER_MINUTES", "an hour"),
        ("ALERT_AFTER_MINUTES", "\u0661"),
        ("STATE_TABLE", " "),
    ],
)
def test_an_invalid_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        RefreshSettings.from_environ({**GOOD, name: value})


def test_trouble_may_be_alerted_at_once() -> None:
    settings = RefreshSettings.from_environ({**GOOD, "ALERT_AFTER_MINUTES": "0"})
    assert settings.alert_policy().alert_after == timedelta(0)


@pytest.mark.parametrize("name", sorted(GOOD.keys() - MAY_BE_EMPTY))
def test_a_missing_variable_is_named_and_no_other(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RefreshSettings.from_environ({key: value for key, value in GOOD.items() if key != name})
    assert [other for other in GOOD if f"{other} should" in str(caught.value)] == [name]


def test_everything_invalid_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        RefreshSettings.from_environ({})
    assert all(name in str(caught.value) for name in GOOD.keys() - MAY_BE_EMPTY)


@pytest.mark.parametrize(
    ("event", "options"),
    [
        ({}, RunOptions()),
        ({"force": True}, RunOptions(force=True)),
        ({"dry_run": True}, RunOptions(dry_run=True)),
        ({"check": True}, RunOptions(check=True)),
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
        ({"check": 1}, "check should be true or false"),
        ({"Force": True, "dry_run": 0}, "dry_run should be true or false"),
    ],
)
def test_an_invalid_event_is_named(event: object, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        RunOptions.from_event(event)


def test_an_event_of_many_keys_makes_no_long_alert() -> None:
    with pytest.raises(ConfigError) as caught:
        RunOptions.from_event(
            {f"key_{'x' * (number % 50)}": True for number in range(9)}
            | {f"call {number}": True for number in range(100_000)}
        )
    assert len(str(caught.value)) < 500
    assert str(caught.value).endswith("and 100006 more unknown keys")


@pytest.mark.parametrize("key", ["call +1 555 0100", "x" * 21, "a1", "line\nbreak", "eyJhbGci0iJI"])
def test_a_key_that_is_not_like_an_options_name_is_not_repeated(key: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown key \(not a name\)") as caught:
        RunOptions.from_event({key: True})
    assert key not in str(caught.value)


def test_a_token_pasted_as_a_key_or_a_value_is_not_repeated() -> None:
    token = mint({"id": "alice"})
    with pytest.raises(ConfigError) as caught:
        RunOptions.from_event({token: True, "token": token, "force": token})
    assert "eyJ" not in str(caught.value)
    assert "'token'" in str(caught.value)
