"""The template: what it asks for, what it refuses, and what it promises to the rest of the project.

Whether it deploys, and works, is shown by the end-to-end tests.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import hypothesis
import pytest
from aws_lambda_powertools.shared import constants as powertools
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

import handler
from keeper_runtime import settings
from keeper_runtime.clients import Clients
from keeper_runtime.settings import RefreshSettings
from localcloud.cloudformation import read_template
from qwen_token import ConfigError
from tests.addresses import CASES
from tests.fake_lambda_context import FakeLambdaContext
from tests.fakes import Recorder
from tests.minting import NOW, mint
from tests.unit.template import (
    OUTPUTS,
    PARAMETERS,
    RESOURCES,
    TEMPLATE,
    Json,
    accepts,
    actions,
    dashboard,
    decided,
    dicts,
    function_properties,
    holds,
    named,
    policies,
    texts,
)

ROOT: Final = Path(__file__).parents[2]

# The contract: names that other people's stacks, scripts and alarms hold on to.
DEFAULTS = {
    "SecretName": "qwen/token",
    "SecretArn": "",
    "SessionSecretName": "qwen/session",
    "SessionSecretArn": "",
    "SecretKmsKeyArn": "",
    "ReplicaRegion": "",
    "ApiBaseUrl": "https://chat.qwen.ai",
    "AuthBaseUrl": "https://auth.qwen.ai",
    "WebVersion": "0.3.12",
    "UserAgent": "Mozilla/5.0 (compatible; qwen-token-refresh/1.0)",
    "RefreshBeforeDays": "3",
    "CriticalDays": "1",
    "AlertAfterMinutes": "60",
    "Schedule": "rate(2 minutes)",
    "SilentAfterMinutes": "30",
    "CheckSchedule": "rate(1 day)",
    "AlertEmail": "",
    "ChangeEvents": "true",
    "LogLevel": "INFO",
    "LogRetentionDays": 30,
    "Architecture": "arm64",
    "PermissionsBoundaryArn": "",
    "VpcSubnetIds": "",
    "VpcSecurityGroupIds": "",
    "Fleet": "false",
    "FleetTag": "qwen-token",
    "FleetSchedule": "rate(10 minutes)",
    "FleetMaximumConcurrency": 5,
    "FleetBatchSize": 10,
}
OUTPUT_NAMES = {
    "RefreshFunctionName",
    "RefreshFunctionArn",
    "SecretArn",
    "StateTableName",
    "AlertTopicArn",
    "TokenLayerArn",
    "ReaderPolicyArn",
    "DashboardUrl",
}
FLEET_OUTPUT_NAMES = {
    "DispatchFunctionName",
    "FleetQueueUrl",
    "FleetDeadLetterQueueUrl",
    "FleetDashboardUrl",
}
METRICS = {
    "TokenDaysRemaining",
    "SessionDaysRemaining",
    "RunCompleted",
    "RunSucceeded",
    "TokenRefreshed",
    "RefreshFailed",
}
ALARMS = ("RefreshFailedAlarm", "LoginEndingAlarm", "TokenExpiredAlarm", "KeeperSilentAlarm")
FLEET_ALARMS = (
    "FleetLoginEndingAlarm",
    "FleetTokenExpiredAlarm",
    "FleetSweepFailedAlarm",
    "FleetSilentAlarm",
    "FleetDeadLettersAlarm",
    "FleetQueueOldAlarm",
)
DASHBOARDS = ("Dashboard", "FleetDashboard")

THE_SECRET = {"Fn::If": ["CreateSecret", {"Fn::GetAtt": ["Secret", "Id"]}, {"Ref": "SecretArn"}]}
# Without a session secret, this is an empty text: SessionSecretArn's default.
THE_SESSION = {
    "Fn::If": [
        "CreateSessionSecret",
        {"Fn::GetAtt": ["SessionSecret", "Id"]},
        {"Ref": "SessionSecretArn"},
    ]
}
THE_TABLE = {"Fn::GetAtt": ["StateTable", "Arn"]}
THE_TOPIC = {"Ref": "AlertTopic"}
# What alarms reach AlertEmail by.
TO_THE_ADDRESS = {"Fn::If": ["HasAlertEmail", {"Ref": "AlarmEmailTopic"}, {"Ref": "AWS::NoValue"}]}
THE_BUS = {
    "Fn::Sub": "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:event-bus/default"
}
THE_KEY = {"Ref": "SecretKmsKeyArn"}
# In the other region, under the same name.
THE_COPY = {
    "Fn::Join": [
        ":",
        [
            {
                "Fn::Sub": "arn:${AWS::Partition}:secretsmanager:${ReplicaRegion}"
                ":${AWS::AccountId}:secret"
            },
            {"Fn::Select": [6, {"Fn::Split": [":", {"Fn::GetAtt": ["Secret", "Id"]}]}]},
        ],
    ]
}
THE_FLEET = {"Fn::Sub": "${AWS::StackName}.fleet"}
NOTHING = {"Ref": "AWS::NoValue"}

SECRET_ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:qwen/token-a1B2c3"
KEY_ARN = "arn:aws:kms:eu-west-1:111122223333:key/0a1b2c3d-1111-2222-3333-444455556666"

# What keeps a secret and what reads one: no more than the code calls.
KEEP = {
    "secretsmanager:DescribeSecret",
    "secretsmanager:GetSecretValue",
    "secretsmanager:PutSecretValue",
    "secretsmanager:UpdateSecretVersionStage",
}
READ = {"secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue"}

ROLES = (
    "RefreshFunctionRole",
    "ScheduleRole",
    "DispatchFunctionRole",
    "WorkerFunctionRole",
    "DispatchScheduleRole",
)
FUNCTIONS = ("RefreshFunction", "DispatchFunction", "WorkerFunction")

DAYS = {
    "a whole number": ("3", True),
    "more than a week": ("14", True),
    "a decimal number": ("2.5", True),
    "less than a day": ("0.5", True),
    "a minute and a half": ("0.001", True),
    "nothing": ("", False),
    "zero": ("0", False),
    "zero, to the third decimal": ("0.000", False),
    "less than zero": ("-1", False),
    "a plus sign": ("+1", False),
    "a leading zero, which is no JSON number": ("03", False),
    "no digit before the point, which is no JSON number": (".5", False),
    "no digit after the point, which is no JSON number": ("3.", False),
    "a decimal comma": ("2,5", False),
    "an exponent": ("1e1", False),
    "not a number": ("nan", False),
    "infinity": ("Infinity", False),
    "hexadecimal": ("0x3", False),
    "digits of another script": ("٣", False),
    "a unit": ("3 days", False),
    "a space": (" 3", False),
    "a line break": ("3\n", False),
    "longer than a life": ("36500", False),
}

ARNS = {
    "an ARN": (SECRET_ARN, True),
    "an ARN in China": (SECRET_ARN.replace("aws", "aws-cn", 1), True),
    "an ARN in GovCloud": (SECRET_ARN.replace("aws", "aws-us-gov", 1), True),
    "every character a name may have": (SECRET_ARN.replace("qwen/token", "aZ09/_+=.@-"), True),
    "nothing: the stack makes one": ("", True),
    "a name": ("qwen/token", False),
    "an ARN without its last six characters": (SECRET_ARN.removesuffix("-a1B2c3"), False),
    "a pattern": (SECRET_ARN.removesuffix("a1B2c3") + "??????", False),
    "any secret": (SECRET_ARN.removesuffix("qwen/token-a1B2c3") + "*", False),
    "another service's ARN": (SECRET_ARN.replace("secretsmanager", "ssm"), False),
    "no account": (SECRET_ARN.replace("111122223333", ""), False),
    "two ARNs": (f"{SECRET_ARN},{SECRET_ARN}", False),
    "a space": (f" {SECRET_ARN}", False),
}

URLS: dict[str, tuple[object, bool]] = {
    name: (address, is_safe) for name, address, is_safe in CASES
}

SCHEDULES = {
    "every twelve hours": ("rate(12 hours)", True),
    "every minute": ("rate(1 minute)", True),
    "a cron of every sixth hour": ("cron(15 0/6 * * ? *)", True),
    "a cron of every hour": ("cron(0 * ? * * *)", True),
    "a cron of every twelfth hour": ("cron(0 */12 * * ? *)", True),
    "a cron of chosen hours": ("cron(0,30 3,9,15,21 * * ? *)", True),
    "a cron of a range of hours": ("cron(0 0-22/2 * * ? *)", True),
    "nothing": ("", False),
    "no rate": ("6 hours", False),
    "in days": ("rate(1 day)", False),
    "in seconds": ("rate(30 seconds)", False),
    "a fraction": ("rate(1.5 hours)", False),
    "less than nothing": ("rate(-6 hours)", False),
    "two spaces": ("rate(6  hours)", False),
    "upper case": ("RATE(6 HOURS)", False),
    "cut off by a shell": ("rate(6", False),
    "once": ("at(2030-01-01T00:00:00)", False),
    "a cron of five fields": ("cron(0 */6 * * ?)", False),
    "a cron of seven fields": ("cron(0 0 */6 * * ? *)", False),
    "a cron of once a day": ("cron(0 6 * * ? *)", False),
    "a cron of every thirteenth hour": ("cron(0 */13 * * ? *)", False),
    "a cron of a late start each day": ("cron(0 20/2 * * ? *)", False),
    "a cron of the first of each month": ("cron(0 */6 1 * ? *)", False),
    "a cron of one month": ("cron(0 */6 * 1 ? *)", False),
    "a cron of working days": ("cron(0 */6 ? * MON-FRI *)", False),
    "a cron of one year": ("cron(0 */6 * * ? 2030)", False),
    "a cron of both kinds of days": ("cron(0 */6 * * * *)", False),
    "a cron of nothing": ("cron()", False),
}

BROWSER = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/142.0.0.0 Safari/537.36"
)

# parameter → what the value is → the value, and whether it is accepted
VALUES: dict[str, dict[str, tuple[object, bool]]] = {
    "SecretName": {
        "a path": ("prod/qwen/token", True),
        "every character allowed": ("aZ09/_+=.@-", True),
        "as long as allowed": ("n" * 512, True),
        "nothing": ("", False),
        "too long": ("n" * 513, False),
        "a space": ("qwen token", False),
        "an ARN": (SECRET_ARN, False),
        "a line break": ("qwen/token\n", False),
    },
    "SessionSecretName": {
        "a path": ("prod/qwen/session", True),
        "every character allowed": ("aZ09/_+=.@-", True),
        "as long as allowed": ("n" * 512, True),
        "nothing: no session": ("", True),
        "too long": ("n" * 513, False),
        "a space": ("qwen session", False),
        "an ARN": (SECRET_ARN, False),
        "a line break": ("qwen/session\n", False),
        "a cookie": ("refresh_token=abc; token=def", False),
    },
    "SecretArn": {**ARNS},
    "SessionSecretArn": {**ARNS},
    "SecretKmsKeyArn": {
        "a key": (KEY_ARN, True),
        "a multi-Region key": (KEY_ARN.replace("key/", "key/mrk-"), True),
        "nothing: the key that AWS manages": ("", True),
        "an alias, which no IAM policy resolves": (KEY_ARN.replace("key/", "alias/"), False),
        "an id alone": (KEY_ARN.rpartition("/")[2], False),
        "any key": (KEY_ARN.rpartition("/")[0] + "/*", False),
    },
    "ApiBaseUrl": URLS,
    "AuthBaseUrl": {**URLS, "nothing": ("", True)},
    "WebVersion": {
        "a version": ("0.3.12", True),
        "a release candidate": ("0.4.0-rc.1", True),
        "one number": ("1", True),
        "four numbers": ("1.2.3.4", True),
        "nothing": ("", False),
        "a word": ("latest", False),
        "a v": ("v0.3.12", False),
        "a dot at the end": ("0.3.", False),
        "a space": ("0.3 12", False),
        "a line break": ("0.3.12\n", False),
        "another header": ("0.3.12\r\nCookie: a=b", False),
        "a token behind a number": ("0-" + mint({"id": "alice"}), False),
        "too long": ("1." * 20 + "1", False),
    },
    "UserAgent": {
        "a browser's": (BROWSER, True),
        "one with an address": ("keeper/1 (+https://example.com/~me; me@example.com)", True),
        "a word": ("keeper", True),
        "as long as allowed": ("k" * 256, True),
        "nothing": ("", False),
        "too long": ("k" * 257, False),
        "a space at the start": (" keeper", False),
        "a space at the end": ("keeper ", False),
        "two spaces": ("keeper  1", False),
        "a tabulator": ("keeper\t1", False),
        "a line break": ("keeper\n", False),
        "another header": ("keeper\r\nCookie: a=b", False),
        "a delete character": ("keeper\x7f", False),
        "a token behind a word": ("Bearer " + mint({"id": "alice"}), False),
        "a quote": ('keeper"', False),
    },
    "RefreshBeforeDays": {**DAYS},
    "CriticalDays": {**DAYS},
    "Schedule": {**SCHEDULES},
    # Dispatch plans by the time between two sweeps, and does not read cron.
    "FleetSchedule": {
        what: (value, accepted and value.startswith("rate"))
        for what, (value, accepted) in SCHEDULES.items()
    },
    "AlertAfterMinutes": {
        "not at all": ("0", True),
        "a minute": ("1", True),
        "a day": ("1440", True),
        "more than a day": ("1441", False),
        "less than nothing": ("-1", False),
        "a fraction": ("1.5", False),
        "a leading zero": ("060", False),
        "a unit": ("60 minutes", False),
        "a line break": ("60\n", False),
        "digits of another script": ("٦٠", False),
        "nothing": ("", False),
    },
    "SilentAfterMinutes": {
        "half an hour": ("30", True),
        "an hour": ("60", True),
        "three hours": ("180", True),
        "half a day": ("720", True),
        "a day": ("1440", True),
        "one that is not offered": ("45", False),
        "none": ("0", False),
        "nothing": ("", False),
    },
    "CheckSchedule": {
        "once a day": ("rate(1 day)", True),
        "once a week": ("rate(7 days)", True),
        "every hour": ("rate(1 hour)", True),
        "every ten minutes": ("rate(10 minutes)", True),
        "a cron of every morning": ("cron(15 6 * * ? *)", True),
        "a cron of working days": ("cron(15 6 ? * MON-FRI *)", True),
        "a cron of the last day of a month": ("cron(0 6 L * ? *)", True),
        "nothing: never": ("", True),
        "a rate of nothing": ("rate(0 days)", False),
        "the plural of one": ("rate(1 days)", False),
        "the singular of two": ("rate(2 day)", False),
        "in weeks": ("rate(1 week)", False),
        "cut off by a shell": ("rate(1", False),
        "once": ("at(2030-01-01T00:00:00)", False),
        "a cron of five fields": ("cron(15 6 * * ?)", False),
        "a cron of seven fields": ("cron(0 15 6 * * ? *)", False),
        "a word": ("never", False),
        "a line break": ("rate(1 day)\n", False),
    },
    "AlertEmail": {
        "an address": ("owner+qwen@mail.example.com", True),
        "nothing: no subscription": ("", True),
        "no domain": ("owner@", False),
        "no name": ("@example.com", False),
        "no dot in the domain": ("owner@localhost", False),
        "two addresses": ("a@example.com b@example.com", False),
        "two at signs": ("a@b@example.com", False),
        "a dot at the end": ("a@example.com.", False),
        "a web address": ("https://example.com", False),
        "too long": ("a" * 250 + "@b.de", False),
    },
    "LogRetentionDays": {
        "a day": (1, True),
        "ten years": (3653, True),
        "for ever, which would never end": (0, False),
        "between two that there are": (31, False),
        "less than nothing": (-1, False),
    },
    "LogLevel": {
        "all that is meant for people": ("INFO", True),
        "warnings": ("WARNING", True),
        "errors": ("ERROR", True),
        "whole answers, tokens included": ("DEBUG", False),
        "lower case": ("info", False),
        "nothing": ("", False),
    },
    "ReplicaRegion": {
        "a region": ("eu-west-1", True),
        "one with two digits": ("eu-central-10", True),
        "of the government": ("us-gov-west-1", True),
        "in China": ("cn-northwest-1", True),
        "isolated": ("us-isob-east-1", True),
        "nothing": ("", True),
        "two": ("eu-west-1,eu-west-2", False),
        "a zone": ("eu-west-1a", False),
        "in capitals": ("EU-WEST-1", False),
        "a place": ("Ireland", False),
        "any": ("*", False),
    },
    "PermissionsBoundaryArn": {
        "a policy": ("arn:aws:iam::111122223333:policy/team/boundary", True),
        "a policy of AWS's own": ("arn:aws:iam::aws:policy/PowerUserAccess", True),
        "a policy in China": ("arn:aws-cn:iam::111122223333:policy/boundary", True),
        "nothing": ("", True),
        "a role": ("arn:aws:iam::111122223333:role/boundary", False),
        "a name": ("boundary", False),
        "any policy": ("arn:aws:iam::111122223333:policy/*", False),
        "no account": ("arn:aws:iam:::policy/boundary", False),
    },
    "VpcSubnetIds": {
        "one": ("subnet-0a1b2c3d4e5f60718", True),
        "an old one": ("subnet-0a1b2c3d", True),
        "two": ("subnet-0a1b2c3d4e5f60718,subnet-0a1b2c3d", True),
        "as many as Lambda takes": (",".join(["subnet-0a1b2c3d"] * 16), True),
        "nothing": ("", True),
        "more": (",".join(["subnet-0a1b2c3d"] * 17), False),
        "a space between": ("subnet-0a1b2c3d, subnet-0a1b2c3e", False),
        "a comma at the end": ("subnet-0a1b2c3d,", False),
        "a comma alone": (",", False),
        "a security group": ("sg-0a1b2c3d", False),
        "a VPC": ("vpc-0a1b2c3d", False),
    },
    "VpcSecurityGroupIds": {
        "one": ("sg-0a1b2c3d4e5f60718", True),
        "two": ("sg-0a1b2c3d4e5f60718,sg-0a1b2c3d", True),
        "as many as Lambda takes": (",".join(["sg-0a1b2c3d"] * 5), True),
        "nothing": ("", True),
        "more": (",".join(["sg-0a1b2c3d"] * 6), False),
        "a space between": ("sg-0a1b2c3d, sg-0a1b2c3e", False),
        "a comma alone": (",", False),
        "a subnet": ("subnet-0a1b2c3d", False),
        "a name": ("default", False),
    },
    "ChangeEvents": {
        "yes": ("true", True),
        "no": ("false", True),
        "yes, in capitals": ("True", False),
        "a number": ("1", False),
        "nothing": ("", False),
    },
    "Architecture": {
        "arm64": ("arm64", True),
        "x86_64": ("x86_64", True),
        "another one": ("amd64", False),
        "upper case": ("ARM64", False),
        "nothing": ("", False),
    },
    "Fleet": {
        "no": ("false", True),
        "yes": ("true", True),
        "another yes": ("True", False),
        "nothing": ("", False),
    },
    "FleetMaximumConcurrency": {
        "as few as SQS bounds": (2, True),
        "as many as share what AWS lets an account write": (20, True),
        "one, which SQS does not know": (1, False),
        "more": (21, False),
        "a word": ("many", False),
        "nothing": ("", False),
    },
    "FleetBatchSize": {
        "one": (1, True),
        "thirty": (30, True),
        "none": (0, False),
        "more than fit into a worker's time": (31, False),
        "nothing": ("", False),
    },
    "FleetTag": {
        "a word": ("qwen-token", True),
        "a path": ("team:qwen/token@1.0=x+y_z", True),
        "one that only begins like AWS's own": ("awsome", True),
        "nothing": ("", False),
        "AWS's own": ("aws:qwen", False),
        "AWS's own in upper case": ("AWS:qwen", False),
        "a quote": ('qwen"', False),
        "too long": ("t" * 129, False),
    },
}


# ── Parameters ──────────────────────────────────────────────────────────────────────────────────


def test_the_parameters_are_those_of_the_contract() -> None:
    assert {name: each["Default"] for name, each in PARAMETERS.items()} == DEFAULTS


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_says_what_it_is_for_and_what_it_takes(name: str) -> None:
    assert PARAMETERS[name]["Description"]
    assert PARAMETERS[name]["ConstraintDescription"].startswith("must be ")
    assert not PARAMETERS[name]["ConstraintDescription"].endswith(".")


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_has_one_place_in_the_console(name: str) -> None:
    interface = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]
    grouped = [each for group in interface["ParameterGroups"] for each in group["Parameters"]]

    assert grouped.count(name) == 1
    assert interface["ParameterLabels"][name]["default"]


def test_every_parameter_is_used() -> None:
    assert set(PARAMETERS) <= named(
        [TEMPLATE["Conditions"], TEMPLATE["Globals"], RESOURCES, OUTPUTS]
    )


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_default_is_accepted(name: str) -> None:
    assert accepts(name, DEFAULTS[name])


def test_every_parameter_has_values_to_accept_and_to_refuse() -> None:
    assert VALUES.keys() == PARAMETERS.keys()
    assert all({good for _, good in cases.values()} == {True, False} for cases in VALUES.values())


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_refuses_invalid_values_and_no_others(name: str) -> None:
    answers = {what: accepts(name, value) for what, (value, _) in VALUES[name].items()}

    assert answers == {what: accepted for what, (_, accepted) in VALUES[name].items()}


@pytest.mark.parametrize(
    "nonsense",
    [
        pytest.param(" ", id="a space"),
        pytest.param("${AWS::StackName}", id="an unresolved reference"),
        pytest.param("$(id)", id="a shell's substitution"),
        pytest.param("{{resolve:ssm:/x}}", id="a dynamic reference"),
        pytest.param('"quoted"', id="quotes that a shell left on"),
        pytest.param("*", id="everything"),
        pytest.param("<html>", id="a tag"),
        pytest.param("té", id="a letter beyond ASCII"),
        pytest.param("a\x00b", id="a null character"),
        pytest.param(mint({"id": "alice"}), id="a token, which would be there to read"),
        pytest.param("x" * 4097, id="far too long"),
    ],
)
def test_no_parameter_takes_a_token(nonsense: str) -> None:
    assert [name for name in PARAMETERS if accepts(name, nonsense)] == []


@pytest.mark.parametrize("name", ["Schedule", "FleetSchedule"])
@pytest.mark.parametrize(("unit", "most"), [("minute", 720), ("hour", 12)])
def test_a_rate_is_at_most_twelve_hours_and_grammatical(name: str, unit: str, most: int) -> None:
    accepted = {
        expression
        for count in range(1500)
        for expression in (f"rate({count} {unit})", f"rate({count} {unit}s)")
        if accepts(name, expression)
    }

    plurals = {f"rate({count} {unit}s)" for count in range(2, most + 1)}
    assert accepted == {f"rate(1 {unit})"} | plurals


def test_alerts_may_wait_for_any_number_of_minutes_up_to_a_day() -> None:
    accepted = {count for count in range(2000) if accepts("AlertAfterMinutes", count)}

    assert accepted == set(range(1441))


# rule → which parameters are given → whether it holds
SUBNETS = {"VpcSubnetIds": "subnet-0a1b2c3d"}
GROUPS = {"VpcSecurityGroupIds": "sg-0a1b2c3d"}
COMBINATIONS: dict[str, dict[str, tuple[dict[str, str], bool]]] = {
    "VpcIsWhole": {
        "neither": ({}, True),
        "both": (SUBNETS | GROUPS, True),
        "subnets alone": (SUBNETS, False),
        "security groups alone": (GROUPS, False),
    },
    "TheReplicaIsElsewhere": {
        "none": ({}, True),
        "in another region": ({"ReplicaRegion": "eu-west-2"}, True),
        "in the stack's own region": ({"ReplicaRegion": "eu-west-1"}, False),
    },
    "TheSecretsAreTwo": {
        "two new ones": ({}, True),
        "two that exist": (
            {"SecretArn": SECRET_ARN, "SessionSecretArn": SECRET_ARN.replace("token", "session")},
            True,
        ),
        "no session": ({"SessionSecretName": ""}, True),
        "the login beside the token": (
            {"SecretArn": SECRET_ARN, "SessionSecretArn": SECRET_ARN},
            False,
        ),
        "one name": ({"SessionSecretName": "qwen/token"}, False),
        "one name, which only one of them has": (
            {"SessionSecretName": "qwen/token", "SecretArn": SECRET_ARN.replace("qwen", "other")},
            True,
        ),
    },
}


def test_every_rule_has_combinations_to_accept_and_to_refuse() -> None:
    assert COMBINATIONS.keys() == TEMPLATE["Rules"].keys()
    for cases in COMBINATIONS.values():
        assert {good for _, good in cases.values()} == {True, False}


@pytest.mark.parametrize(
    ("rule", "given_values", "accepted"),
    [
        pytest.param(rule, given_values, accepted, id=f"{rule}: {what}")
        for rule, cases in COMBINATIONS.items()
        for what, (given_values, accepted) in cases.items()
    ],
)
def test_a_rule_refuses_parameters_that_do_not_go_together(
    rule: str, given_values: dict[str, str], *, accepted: bool
) -> None:
    values = DEFAULTS | {"AWS::Region": "eu-west-1"} | given_values
    assertions = TEMPLATE["Rules"][rule]["Assertions"]

    assert all(accepts(name, value) for name, value in given_values.items())
    assert all(each["AssertDescription"] for each in assertions)
    assert all(holds(each["Assert"], values) for each in assertions) is accepted


@pytest.mark.parametrize(
    ("given_values", "created", "there_is_one"),
    [
        pytest.param({}, True, True, id="a name"),
        pytest.param({"SessionSecretArn": SECRET_ARN}, False, True, id="an ARN"),
        pytest.param(
            {"SessionSecretArn": SECRET_ARN, "SessionSecretName": ""}, False, True, id="no name"
        ),
        pytest.param({"SessionSecretName": ""}, False, False, id="neither"),
    ],
)
def test_a_session_secret_is_created_or_given_or_none(
    given_values: dict[str, str], *, created: bool, there_is_one: bool
) -> None:
    values = DEFAULTS | given_values

    assert holds({"Condition": "CreateSessionSecret"}, values) is created
    assert holds({"Condition": "HasSessionSecret"}, values) is there_is_one


def matching(pattern: str) -> st.SearchStrategy[str]:
    """Return what matches. No lookaround: Hypothesis would draw values and throw them away."""
    return st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True)


def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map("".join)


def several(part: st.SearchStrategy[str], most: int) -> st.SearchStrategy[str]:
    return st.lists(part, max_size=most).map("".join)


OCTET = st.integers(0, 255).map(str)
HOST = st.one_of(
    joined(
        st.just("https://"),
        several(matching(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\."), 3),
        matching(r"[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"),
    ),
    st.lists(OCTET, min_size=4, max_size=4).map(lambda octets: f"https://{'.'.join(octets)}"),
    st.lists(OCTET, min_size=3, max_size=3).map(lambda octets: f"http://127.{'.'.join(octets)}"),
    st.sampled_from(["http://localhost", "http://[::1]"]),
)
# Anything but one dot or two.
SEGMENT = matching(r"/(\.{0,2}[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,20}|\.{3,9})")
URL = joined(
    HOST,
    st.one_of(st.just(""), st.integers(1, 65_535).map(lambda port: f":{port}")),
    several(SEGMENT, 8),
    st.sampled_from(["", "/"]),
)
# As long as a version may be, in its two ways.
VERSION = st.one_of(
    matching(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}(-[A-Za-z0-9]{1,4})?"),
    matching(r"[0-9]{1,6}-[A-Za-z0-9]{1,12}(\.[A-Za-z0-9]{1,12})?"),
)
# What looks like a token is refused.
USER_AGENT = joined(
    matching(r"[A-Za-z0-9][A-Za-z0-9._~+/:;,()@=-]{0,20}"),
    several(matching(r" [A-Za-z0-9._~+/:;,()@=-]{1,20}"), 10),
).map(lambda text: text.replace("eyJ", "eyj"))


@st.composite
def decimals(draw: st.DrawFn) -> str:
    """Draw a number above 0 with up to four digits before the point, and three behind it."""
    places = draw(st.integers(0, 3))
    digits = draw(st.integers(1, 10 ** (4 + places) - 1))
    whole, fraction = divmod(digits, 10**places)
    return f"{whole}.{fraction:0{places}}" if places else str(whole)


# Values take as long to be drawn as they take on a busy machine.
@hypothesis.settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    urls=st.tuples(URL, st.one_of(st.just(""), URL)),
    headers=st.tuples(VERSION, USER_AGENT),
    days=st.tuples(decimals(), decimals()),
    minutes=st.integers(0, 1440).map(str),
    session=st.sampled_from(["", SECRET_ARN.replace("token", "session")]),
)
def test_the_function_accepts_everything_that_the_template_accepts(
    urls: tuple[str, str],
    headers: tuple[str, str],
    days: tuple[str, str],
    minutes: str,
    session: str,
) -> None:
    critical, refresh = sorted(days, key=float)
    api_url, auth_url = urls
    web_version, user_agent = headers
    given_values = {
        "ApiBaseUrl": api_url,
        "AuthBaseUrl": auth_url,
        "WebVersion": web_version,
        "UserAgent": user_agent,
        "RefreshBeforeDays": refresh,
        "CriticalDays": critical,
        "AlertAfterMinutes": minutes,
    }
    for name, value in given_values.items():
        assert accepts(name, value), "or this test does not try what it should"

    RefreshSettings.from_environ(
        {
            settings.SECRET_ID: SECRET_ARN,
            "SESSION_SECRET_ID": session,
            "STATE_TABLE": "stack-StateTable-1A2B3C4D5E6F",
            settings.API_BASE_URL: api_url,
            "AUTH_BASE_URL": auth_url,
            "WEB_VERSION": web_version,
            "USER_AGENT": user_agent,
            settings.REFRESH_BEFORE_DAYS: refresh,
            settings.CRITICAL_DAYS: critical,
            "ALERT_AFTER_MINUTES": minutes,
            settings.ALERT_TOPIC_ARN: "arn:aws:sns:eu-west-1:111122223333:alerts",
        }
    )


# ── The stack ───────────────────────────────────────────────────────────────────────────────────


def test_the_outputs_are_those_of_the_contract() -> None:
    assert {name for name, each in OUTPUTS.items() if "Condition" not in each} == OUTPUT_NAMES
    optional = {
        name: each["Condition"] for name, each in OUTPUTS.items() if name not in OUTPUT_NAMES
    }
    assert optional == {
        "SessionSecretArn": "HasSessionSecret",
        **dict.fromkeys(FLEET_OUTPUT_NAMES, "HasFleet"),
    }
    assert all(each["Description"] for each in OUTPUTS.values())
    assert not any("Export" in each for each in OUTPUTS.values())


def test_no_account_region_or_partition_is_taken_for_granted() -> None:
    fixed = [
        text
        for text in texts([TEMPLATE["Globals"], RESOURCES, OUTPUTS])
        if re.search(r"arn:aws|[0-9]{12}|\b[a-z]{2}-(north|south|east|west|central)\w*-[0-9]", text)
    ]

    assert not fixed


def test_no_iam_resource_has_a_name_so_that_capability_iam_is_enough() -> None:
    properties = [
        each["Properties"].keys()
        for each in RESOURCES.values()
        if each["Type"].startswith("AWS::IAM::")
    ]

    assert properties
    assert not any(keys & {"RoleName", "ManagedPolicyName", "Path"} for keys in properties)


@pytest.mark.parametrize(
    ("name", "condition"),
    [("Secret", "CreateSecret"), ("SessionSecret", "CreateSessionSecret")],
)
def test_nothing_that_happens_to_the_stack_takes_a_secret_away(name: str, condition: str) -> None:
    """A creation that fails leaves no empty secret behind, which would block the next one."""
    secret = RESOURCES[name]

    assert secret["DeletionPolicy"] == "RetainExceptOnCreate"
    assert secret["UpdateReplacePolicy"] == "Retain"
    assert secret["Condition"] == condition


def test_a_token_secret_is_created_unless_one_is_given() -> None:
    assert holds({"Condition": "CreateSecret"}, DEFAULTS)
    assert not holds({"Condition": "CreateSecret"}, DEFAULTS | {"SecretArn": SECRET_ARN})


def test_the_token_alone_is_copied_to_another_region() -> None:
    wanted = {"Fn::If": ["HasReplica", [{"Region": {"Ref": "ReplicaRegion"}}], NOTHING]}
    copied = {
        name: properties["ReplicaRegions"]
        for name, resource in RESOURCES.items()
        if "ReplicaRegions" in (properties := resource.get("Properties", {}))
    }
    assert copied == {"Secret": wanted}
    for given_values, is_copied in (
        ({}, False),
        ({"ReplicaRegion": "eu-west-2"}, True),
        ({"ReplicaRegion": "eu-west-2", "SecretArn": SECRET_ARN}, False),
    ):
        assert holds({"Condition": "HasReplica"}, DEFAULTS | given_values) is is_copied


@pytest.mark.parametrize("name", ["Secret", "SessionSecret"])
def test_the_stack_never_knows_a_secrets_value(name: str) -> None:
    assert RESOURCES[name]["Properties"].keys() - {"ReplicaRegions"} == {
        *("Name", "Description", "KmsKeyId")
    }
    assert RESOURCES[name]["Properties"]["KmsKeyId"] == {
        "Fn::If": ["HasCustomerKey", THE_KEY, NOTHING]
    }


def test_a_secrets_arn_is_nowhere_taken_from_what_ref_returns() -> None:
    references = list(dicts([TEMPLATE["Globals"], RESOURCES, OUTPUTS]))

    assert {"Ref": "Secret"} not in references
    assert {"Ref": "SessionSecret"} not in references
    assert OUTPUTS["SecretArn"]["Value"] == THE_SECRET
    assert OUTPUTS["SessionSecretArn"]["Value"] == THE_SESSION


def test_the_state_table_costs_nothing_idle_and_goes_with_the_stack() -> None:
    table = RESOURCES["StateTable"]

    assert table["DeletionPolicy"] == table["UpdateReplacePolicy"] == "Delete"
    assert table["Properties"] == {
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": "secret_id", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "secret_id", "KeyType": "HASH"}],
        "SSESpecification": {"SSEEnabled": True},
        "TimeToLiveSpecification": {"AttributeName": "expires_at", "Enabled": True},
    }
    assert OUTPUTS["StateTableName"]["Value"] == {"Ref": "StateTable"}


# ── The function ────────────────────────────────────────────────────────────────────────────────


def test_the_functions_environment_is_that_of_the_contract() -> None:
    environment = function_properties("RefreshFunction")["Environment"]["Variables"]

    assert environment == {
        "SECRET_ID": THE_SECRET,
        "SESSION_SECRET_ID": THE_SESSION,
        "STATE_TABLE": {"Ref": "StateTable"},
        "API_BASE_URL": {"Ref": "ApiBaseUrl"},
        "AUTH_BASE_URL": {"Ref": "AuthBaseUrl"},
        "WEB_VERSION": {"Ref": "WebVersion"},
        "USER_AGENT": {"Ref": "UserAgent"},
        "REFRESH_BEFORE_DAYS": {"Ref": "RefreshBeforeDays"},
        "CRITICAL_DAYS": {"Ref": "CriticalDays"},
        "ALERT_AFTER_MINUTES": {"Ref": "AlertAfterMinutes"},
        "ALERT_TOPIC_ARN": THE_TOPIC,
        "EVENT_BUS_ARN": {"Fn::If": ["HasChangeEvents", THE_BUS, ""]},
        "POWERTOOLS_SERVICE_NAME": {"Ref": "AWS::StackName"},
        "POWERTOOLS_METRICS_NAMESPACE": "QwenTokenRefresh",
        "POWERTOOLS_LOG_LEVEL": {"Ref": "LogLevel"},
    }


def test_without_a_session_secret_its_variable_is_empty() -> None:
    _, _, otherwise = THE_SESSION["Fn::If"]

    assert otherwise == {"Ref": "SessionSecretArn"}
    assert DEFAULTS["SessionSecretArn"] == ""


def test_the_template_sets_what_the_code_reads_and_nothing_else() -> None:
    environ = Recorder()

    def not_reached(*_: object) -> Any:
        pytest.fail("a run without its environment must not reach the outside")

    outside = ("secrets", "sns", "events", "sqs", "functions", "dynamodb", "qwen", "grant")
    parts: dict[str, Any] = dict.fromkeys(outside, not_reached)
    clients = Clients(environ, lambda: NOW, **parts)
    # With the decorator of the deployed handler, so that nothing counted is left for other tests.
    counting = handler.metrics.log_metrics(
        lambda event, context: handler.run(event, context, clients)
    )
    with pytest.raises(ConfigError):
        counting({}, FakeLambdaContext())

    variables = function_properties("RefreshFunction")["Environment"]["Variables"]
    of_powertools = {name for name in variables if name.startswith("POWERTOOLS_")}
    assert environ.asked == variables.keys() - of_powertools
    known = list(vars(powertools).values())
    assert all(name in known for name in of_powertools), "names that Powertools knows"


def test_the_code_reads_the_environment_in_one_place() -> None:
    # So that what the test above records is all there is. Of what foreign code reads, only the name
    # is said, after it has failed.
    root = Path(__file__).parents[2]
    shipped = [*root.glob("functions/*/*.py"), *root.glob("layers/*/*/**/*.py")]
    reading = {
        path.name: text.count("os.environ")
        for path in shipped
        if re.search(r"os\.(environ|getenv)", text := path.read_text(encoding="utf-8"))
    }

    assert shipped
    # json_lines: the level, which Powertools reads as well.
    assert reading == {"clients.py": 1, "environment_faults.py": 2, "json_lines.py": 1}


def test_a_failed_run_is_not_retried_by_lambda() -> None:
    properties = function_properties("RefreshFunction")

    assert properties["EventInvokeConfig"]["MaximumRetryAttempts"] == 0
    assert "ReservedConcurrentExecutions" not in properties


def test_the_log_keeps_the_lines_that_carry_the_metrics() -> None:
    logging = function_properties("RefreshFunction")["LoggingConfig"]

    assert logging == {
        "LogGroup": {"Ref": "RefreshFunctionLogGroup"},
        "LogFormat": "JSON",
        "ApplicationLogLevel": "INFO",
    }


def test_the_schedule_asks_for_nothing_special_under_a_name_and_role_of_its_own() -> None:
    timer = RESOURCES["RefreshFunction"]["Properties"]["Events"]["Timer"]

    assert timer["Type"] == "ScheduleV2"
    assert timer["Properties"]["ScheduleExpression"] == {"Ref": "Schedule"}
    assert json.loads(timer["Properties"]["Input"]) == {}
    assert timer["Properties"]["OmitName"] is True
    assert timer["Properties"]["RoleArn"] == {"Fn::GetAtt": ["ScheduleRole", "Arn"]}
    # Lambda's own limits for both: 60 to 86,400 seconds, 0 to 185 attempts.
    assert 60 <= timer["Properties"]["RetryPolicy"]["MaximumEventAgeInSeconds"] <= 86_400
    assert 0 <= timer["Properties"]["RetryPolicy"]["MaximumRetryAttempts"] <= 185


def test_the_live_check_has_a_schedule_of_its_own_unless_it_is_switched_off() -> None:
    timer = RESOURCES["CheckTimer"]
    [own_retries] = [
        each["Properties"]["RetryPolicy"]
        for each in RESOURCES["RefreshFunction"]["Properties"]["Events"].values()
    ]

    assert timer["Type"] == "AWS::Scheduler::Schedule"
    assert timer["Condition"] == "HasCheckSchedule"
    assert holds({"Condition": "HasCheckSchedule"}, DEFAULTS)
    assert not holds({"Condition": "HasCheckSchedule"}, DEFAULTS | {"CheckSchedule": ""})
    assert timer["Properties"]["ScheduleExpression"] == {"Ref": "CheckSchedule"}
    assert timer["Properties"]["FlexibleTimeWindow"] == {"Mode": "OFF"}
    target = timer["Properties"]["Target"]
    assert json.loads(target["Input"]) == {"check": True}
    assert target["Arn"] == {"Fn::GetAtt": ["RefreshFunction", "Arn"]}
    assert target["RoleArn"] == {"Fn::GetAtt": ["ScheduleRole", "Arn"]}
    assert target["RetryPolicy"] == own_retries
    # A fixed name would collide with another stack's, and the role trusts no other group.
    assert not timer["Properties"].keys() & {"Name", "GroupName"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_runs_in_the_owners_vpc_when_one_is_given(name: str) -> None:
    condition, within, otherwise = function_properties(name)["VpcConfig"]["Fn::If"]

    assert holds({"Condition": condition}, DEFAULTS | SUBNETS | GROUPS)
    assert not holds({"Condition": condition}, DEFAULTS)
    assert within == {
        "SubnetIds": {"Fn::Split": [",", {"Ref": "VpcSubnetIds"}]},
        "SecurityGroupIds": {"Fn::Split": [",", {"Ref": "VpcSecurityGroupIds"}]},
    }
    assert otherwise == NOTHING


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_log_group_has_a_name_that_no_function_logs_to_by_default(name: str) -> None:
    group = RESOURCES[f"{name}LogGroup"]["Properties"]["LogGroupName"]["Fn::Sub"]

    # That of a function would be /aws/lambda/NAME, and no name has a slash.
    assert group == f"/aws/lambda/${{AWS::StackName}}/{name.removesuffix('Function').lower()}"


# ── Permissions ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("logical_id", "allowed"),
    [
        (
            "RefreshFunctionRole",
            [
                (KEEP, THE_SECRET),
                (KEEP, THE_SESSION),
                ({"dynamodb:GetItem", "dynamodb:UpdateItem"}, THE_TABLE),
                ({"sns:Publish"}, THE_TOPIC),
                ({"events:PutEvents"}, THE_BUS),
                (
                    {"logs:CreateLogStream", "logs:PutLogEvents"},
                    {"Fn::GetAtt": ["RefreshFunctionLogGroup", "Arn"]},
                ),
                ({"kms:Decrypt", "kms:GenerateDataKey"}, THE_KEY),
            ],
        ),
        (
            "ScheduleRole",
            [({"lambda:InvokeFunction"}, {"Fn::GetAtt": ["RefreshFunction", "Arn"]})],
        ),
        (
            "ReaderPolicy",
            [
                (READ, THE_SECRET),
                (READ, THE_COPY),
                ({"kms:Decrypt"}, THE_KEY),
            ],
        ),
        # Of a topic's own policy, "*" is that topic.
        ("AlertTopicPolicy", [({"sns:Publish"}, "*")]),
    ],
)
def test_a_policy_allows_what_the_code_does_and_nothing_else(
    logical_id: str, allowed: list[tuple[set[str], Json]]
) -> None:
    statements = policies(logical_id)

    assert all(each["Effect"] == "Allow" for each in statements)
    assert [(actions(each), each["Resource"]) for each in statements] == allowed


def test_readers_of_the_token_can_never_read_the_login() -> None:
    """Neither by name, nor by a pattern, nor by way of the key."""
    for statement in policies("ReaderPolicy"):
        assert not {name for name in named(statement) if name.startswith("SessionSecret")}
        assert not [text for text in texts(statement) if "*" in text or "?" in text]
        assert statement["Resource"] == THE_COPY or THE_SECRET in (
            statement["Resource"],
            statement.get("Condition", {})
            .get("StringEquals", {})
            .get("kms:EncryptionContext:SecretARN"),
        )


# What AWS grants for no resource, or for all of them.
WITHOUT_RESOURCE = {
    "secretsmanager:BatchGetSecretValue",
    "secretsmanager:ListSecrets",
    # For Lambda itself: see the test of the VPC.
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
}


def test_no_policy_names_more_than_it_means() -> None:
    documents = [
        (resource["Type"], each)
        for resource in RESOURCES.values()
        for each in dicts(resource["Properties"])
        if "Effect" in each
    ]

    assert documents
    for kind, statement in documents:
        assert not any("*" in action for action in actions(statement)), statement
        # A topic's own policy is about that topic, whatever it names.
        if kind != "AWS::SNS::TopicPolicy" and not actions(statement) <= WITHOUT_RESOURCE:
            assert "*" not in list(texts(statement.get("Resource", []))), statement
        assert "*" not in list(texts(statement.get("Principal", []))), statement
        assert not statement.keys() & {"NotAction", "NotResource", "NotPrincipal"}, statement


@pytest.mark.parametrize(
    ("logical_id", "secrets"),
    [
        (
            "RefreshFunctionRole",
            [THE_SECRET, {"Fn::If": ["HasSessionSecret", THE_SESSION, NOTHING]}],
        ),
        ("ReaderPolicy", THE_SECRET),
    ],
)
def test_a_customer_key_opens_the_stacks_secrets_only_and_through_secrets_manager(
    logical_id: str, secrets: Json
) -> None:
    with_key = [each for each in policies(logical_id) if each["Resource"] == THE_KEY]

    assert [each["Condition"] for each in with_key] == [
        {
            "StringEquals": {
                # The service's name ends like this in every partition, in China, too.
                "kms:ViaService": {"Fn::Sub": "secretsmanager.${AWS::Region}.amazonaws.com"},
                "kms:EncryptionContext:SecretARN": secrets,
            }
        }
    ]


@pytest.mark.parametrize(
    ("logical_id", "conditions"),
    [
        (
            "RefreshFunctionRole",
            {
                "HasSessionSecret": THE_SESSION,
                "HasChangeEvents": THE_BUS,
                "HasCustomerKey": THE_KEY,
            },
        ),
        ("ReaderPolicy", {"HasReplica": THE_COPY, "HasCustomerKey": THE_KEY}),
    ],
)
def test_what_is_not_wanted_is_not_allowed(logical_id: str, conditions: dict[str, Json]) -> None:
    optional = [
        each["Fn::If"]
        for each in dicts(RESOURCES[logical_id]["Properties"])
        if "Fn::If" in each and "Effect" in each["Fn::If"][1]
    ]

    assert {condition: then["Resource"] for condition, then, _ in optional} == conditions
    assert all(otherwise == NOTHING for _, _, otherwise in optional)


def test_every_role_has_the_permissions_boundary_when_one_is_given() -> None:
    roles = {name for name, each in RESOURCES.items() if each["Type"] == "AWS::IAM::Role"}

    assert roles == set(ROLES)
    for name in roles:
        assert RESOURCES[name]["Properties"]["PermissionsBoundary"] == {
            "Fn::If": ["HasPermissionsBoundary", {"Ref": "PermissionsBoundaryArn"}, NOTHING]
        }
    # SAM would make others, without it.
    for name in FUNCTIONS:
        assert function_properties(name)["Role"] == {"Fn::GetAtt": [f"{name}Role", "Arn"]}


def test_network_interfaces_are_for_lambda_itself_and_only_with_a_vpc() -> None:
    [statement] = policies("VpcPolicy")

    assert RESOURCES["VpcPolicy"]["Condition"] == "HasVpc"
    # Lambda puts this key into every request of a function's own code.
    assert statement["Condition"] == {"Null": {"lambda:SourceFunctionArn": "true"}}
    of_vpc = {"Fn::If": ["HasVpc", [{"Ref": "VpcPolicy"}], NOTHING]}
    attached = {
        name: each["Properties"]["ManagedPolicyArns"]
        for name, each in RESOURCES.items()
        if "ManagedPolicyArns" in each["Properties"]
    }
    assert attached == {f"{name}Role": of_vpc for name in FUNCTIONS}


def test_only_schedules_of_this_account_region_and_group_may_take_the_schedules_role() -> None:
    (trust,) = RESOURCES["ScheduleRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    group = (
        "arn:${AWS::Partition}:scheduler:${AWS::Region}:${AWS::AccountId}:schedule-group/default"
    )

    assert trust["Principal"] == {"Service": "scheduler.amazonaws.com"}
    assert trust["Condition"] == {
        "StringEquals": {
            "aws:SourceAccount": {"Ref": "AWS::AccountId"},
            "aws:SourceArn": {"Fn::Sub": group},
        }
    }
    timer = RESOURCES["RefreshFunction"]["Properties"]["Events"]["Timer"]
    assert "GroupName" not in timer["Properties"], "a schedule without one is in the default group"


@pytest.mark.parametrize(
    "path",
    [ROOT / "template.yaml", *sorted(ROOT.glob("examples/*/*.yaml"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_template_holds_no_null(path: Path) -> None:
    """CloudFormation refuses one; neither cfn-lint nor the emulator does."""
    assert "Resources" in (template := read_template(path.read_text(encoding="utf-8")))
    assert not list(nulls(template))


def nulls(node: Json) -> Iterator[None]:
    values = node.values() if isinstance(node, dict) else node
    for value in values:
        if value is None:
            yield value
        elif isinstance(value, dict | list):
            yield from nulls(value)


# ── Alerts ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["AlertTopic", "AlarmEmailTopic"])
def test_a_topic_is_not_encrypted_with_a_key_that_keeps_alarms_out(name: str) -> None:
    assert "KmsMasterKeyId" not in RESOURCES[name]["Properties"]


def test_the_stacks_alarms_and_no_others_may_publish_to_the_topics() -> None:
    (statement,) = policies("AlertTopicPolicy")

    topics = RESOURCES["AlertTopicPolicy"]["Properties"]["Topics"]
    assert topics == [THE_TOPIC, TO_THE_ADDRESS]

    assert statement["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
    assert statement["Condition"] == {
        "StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}},
        "ArnEquals": {
            "aws:SourceArn": [
                *({"Fn::GetAtt": [name, "Arn"]} for name in ALARMS),
                *(
                    {"Fn::If": ["HasFleet", {"Fn::GetAtt": [name, "Arn"]}, NOTHING]}
                    for name in FLEET_ALARMS
                ),
            ]
        },
    }


@pytest.mark.parametrize("name", ["AlertEmailSubscription", "AlarmEmailSubscription"])
def test_an_address_is_subscribed_only_when_given(name: str) -> None:
    subscription = RESOURCES[name]

    assert subscription["Condition"] == "HasAlertEmail"
    assert subscription["Properties"]["Endpoint"] == {"Ref": "AlertEmail"}


def test_an_address_gets_everything_but_notices() -> None:
    """An alarm's message has no attributes, so no filter of attributes lets it through."""
    properties = RESOURCES["AlertEmailSubscription"]["Properties"]

    assert properties["FilterPolicy"] == {"severity": [{"anything-but": ["notice"]}]}
    # Without a scope, it is the attributes that count.
    assert "FilterPolicyScope" not in properties
    assert "FilterPolicy" not in RESOURCES["AlarmEmailSubscription"]["Properties"]


def test_the_alarms_are_all_tested_here() -> None:
    assert {
        name for name, each in RESOURCES.items() if each["Type"] == "AWS::CloudWatch::Alarm"
    } == {*ALARMS, *FLEET_ALARMS}


@pytest.mark.parametrize("name", [*ALARMS, *FLEET_ALARMS])
def test_an_alarm_tells_its_owner_when_it_fires_and_when_it_is_over(name: str) -> None:
    alarm = RESOURCES[name]["Properties"]

    assert alarm["AlarmActions"] == [THE_TOPIC, TO_THE_ADDRESS]
    assert alarm["OKActions"] == [THE_TOPIC, TO_THE_ADDRESS]
    assert "InsufficientDataActions" not in alarm
    assert "make " in alarm["AlarmDescription"]["Fn::Sub"]


@pytest.mark.parametrize("name", [*ALARMS, *FLEET_ALARMS])
def test_an_alarms_description_is_no_longer_than_cloudwatch_takes(name: str) -> None:
    description = RESOURCES[name]["Properties"]["AlarmDescription"]["Fn::Sub"]
    longest_name = "n" * 140

    assert len(re.sub(r"\$\{[^}]+\}", longest_name, description)) <= 1024


@pytest.mark.parametrize("silent_after", PARAMETERS["SilentAfterMinutes"]["AllowedValues"])
@pytest.mark.parametrize("name", [*ALARMS, *FLEET_ALARMS])
def test_an_alarm_looks_back_no_longer_than_cloudwatch_can(name: str, silent_after: str) -> None:
    alarm = decided(RESOURCES[name]["Properties"], DEFAULTS | {"SilentAfterMinutes": silent_after})
    day, hour = 86_400, 3600
    longest = 7 * day if alarm["Period"] >= hour else day

    assert alarm["Period"] % 60 == 0
    assert alarm["Period"] * alarm["EvaluationPeriods"] <= longest
    assert alarm.get("DatapointsToAlarm", 1) <= alarm["EvaluationPeriods"]


@pytest.mark.parametrize(
    ("names", "form"),
    [
        (ALARMS, "${AWS::StackName}-"),
        # No stack's name has a dot: these are not the names of a stack that is called x-fleet.
        (FLEET_ALARMS, "${AWS::StackName}.fleet-"),
    ],
)
def test_an_alarms_name_cannot_be_that_of_another_stack(names: tuple[str, ...], form: str) -> None:
    given_names = [RESOURCES[name]["Properties"]["AlarmName"]["Fn::Sub"] for name in names]

    words = [re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower() for name in names]
    assert given_names == [
        form + each.removeprefix("fleet-").removesuffix("-alarm") for each in words
    ]
    # Two stacks' names would have to differ in what follows, and no end is the end of another.
    ends = [each.removeprefix("${AWS::StackName}") for each in given_names]
    assert not any(one != other and one.endswith(other) for one in ends for other in ends)


@pytest.mark.parametrize(
    ("name", "metric", "condition", "missing"),
    [
        (
            "RefreshFailedAlarm",
            ("AWS/Lambda", "Errors", {"FunctionName": {"Ref": "RefreshFunction"}}),
            ("Sum", "GreaterThanOrEqualToThreshold", 1),
            "ignore",
        ),
        (
            "LoginEndingAlarm",
            ("QwenTokenRefresh", "SessionDaysRemaining", {"service": {"Ref": "AWS::StackName"}}),
            ("Minimum", "LessThanThreshold", {"Ref": "CriticalDays"}),
            "ignore",
        ),
        (
            "TokenExpiredAlarm",
            ("QwenTokenRefresh", "TokenDaysRemaining", {"service": {"Ref": "AWS::StackName"}}),
            ("Minimum", "LessThanOrEqualToThreshold", 0),
            "ignore",
        ),
        (
            "KeeperSilentAlarm",
            ("QwenTokenRefresh", "RunCompleted", {"service": {"Ref": "AWS::StackName"}}),
            ("Sum", "LessThanThreshold", 1),
            "breaching",
        ),
        (
            "FleetSweepFailedAlarm",
            ("AWS/Lambda", "Errors", {"FunctionName": {"Ref": "DispatchFunction"}}),
            ("Sum", "GreaterThanOrEqualToThreshold", 1),
            "ignore",
        ),
        (
            "FleetLoginEndingAlarm",
            ("QwenTokenRefresh", "SessionDaysRemaining", {"service": THE_FLEET}),
            ("Minimum", "LessThanThreshold", {"Ref": "CriticalDays"}),
            "notBreaching",
        ),
        (
            "FleetTokenExpiredAlarm",
            ("QwenTokenRefresh", "TokenDaysRemaining", {"service": THE_FLEET}),
            ("Minimum", "LessThanOrEqualToThreshold", 0),
            "notBreaching",
        ),
        (
            "FleetSilentAlarm",
            ("QwenTokenRefresh", "SweepCompleted", {"service": THE_FLEET}),
            ("Sum", "LessThanThreshold", 1),
            "breaching",
        ),
        (
            "FleetDeadLettersAlarm",
            (
                "AWS/SQS",
                "ApproximateNumberOfMessagesVisible",
                {"QueueName": {"Fn::GetAtt": ["FleetDeadLetterQueue", "QueueName"]}},
            ),
            ("Maximum", "GreaterThanOrEqualToThreshold", 1),
            "ignore",
        ),
        (
            "FleetQueueOldAlarm",
            (
                "AWS/SQS",
                "ApproximateAgeOfOldestMessage",
                {"QueueName": {"Fn::GetAtt": ["FleetQueue", "QueueName"]}},
            ),
            ("Maximum", "GreaterThanThreshold", 7200),
            "notBreaching",
        ),
    ],
)
def test_an_alarm_watches_exactly_what_the_contract_says(
    name: str, metric: Json, condition: Json, missing: str
) -> None:
    alarm = RESOURCES[name]["Properties"]
    dimensions = {each["Name"]: each["Value"] for each in alarm["Dimensions"]}

    assert (alarm["Namespace"], alarm["MetricName"], dimensions) == metric
    assert (alarm["Statistic"], alarm["ComparisonOperator"], alarm["Threshold"]) == condition
    assert alarm["TreatMissingData"] == missing


@pytest.mark.parametrize(
    ("name", "silent_after", "window"),
    [
        (name, minutes, int(minutes))
        for name in ("KeeperSilentAlarm", "FleetSilentAlarm")
        for minutes in PARAMETERS["SilentAfterMinutes"]["AllowedValues"]
    ],
)
def test_nothing_is_silent_before_its_window_has_passed_nor_in_the_first(
    name: str, silent_after: str, window: int
) -> None:
    alarm = decided(RESOURCES[name]["Properties"], DEFAULTS | {"SilentAfterMinutes": silent_after})

    assert alarm["Period"] * alarm["EvaluationPeriods"] == window * 60
    # CloudWatch looks back beyond the evaluated periods: a single one would find the one before.
    assert alarm["DatapointsToAlarm"] == alarm["EvaluationPeriods"] > 1
    warm_up = alarm["WarmUpConfiguration"]
    assert int(warm_up["WarmUpPeriodDurationInMinutes"]) == window
    assert warm_up["OnlyStartEvaluatingAfterWarmUpPeriodEnds"] is True


def test_every_window_that_may_be_chosen_has_its_periods() -> None:
    assert set(TEMPLATE["Mappings"]["SilentWindow"]) == set(
        PARAMETERS["SilentAfterMinutes"]["AllowedValues"]
    )


def test_the_default_window_is_long_enough_for_the_default_schedule() -> None:
    assert DEFAULTS["Schedule"] == "rate(2 minutes)"
    assert DEFAULTS["FleetSchedule"] == "rate(10 minutes)"
    assert int(str(DEFAULTS["SilentAfterMinutes"])) >= max(5 * 2, 3 * 10)


# ── The dashboard ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "days",
    [value for value, accepted in DAYS.values() if accepted],
    ids=lambda days: f"{days} days",
)
@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_json_with_every_number_of_days(name: str, days: str) -> None:
    lines = [
        annotation["value"]
        for widget in dashboard(name, RefreshBeforeDays=days, CriticalDays=days)["widgets"]
        for annotation in widget["properties"].get("annotations", {}).get("horizontal", [])
    ]

    assert lines == [float(days), float(days), 0]


@pytest.mark.parametrize("name", DASHBOARDS)
@pytest.mark.parametrize(
    ("metric", "limits"),
    [("SessionDaysRemaining", [3, 1]), ("TokenDaysRemaining", [0])],
    ids=["the login", "the token"],
)
def test_a_dashboard_shows_a_life_over_its_whole_width_with_its_limits(
    name: str, metric: str, limits: list[int]
) -> None:
    (graph,) = [
        each["properties"]
        for each in dashboard(name)["widgets"]
        if each["width"] == 24 and metric in texts(each)
    ]

    assert graph["stat"] == "Minimum"
    assert [each["value"] for each in graph["annotations"]["horizontal"]] == limits


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_life_of_a_token_is_in_hours_because_it_may_be_minutes(name: str) -> None:
    (graph,) = [
        each["properties"]
        for each in dashboard(name)["widgets"]
        if each["width"] == 24 and "TokenDaysRemaining" in texts(each)
    ]

    expressions = [each for row in graph["metrics"] for each in row if isinstance(each, dict)]
    assert [each["label"] for each in expressions if "expression" in each] == ["hours left"]
    assert all("* 24" in each["expression"] for each in expressions if "expression" in each)
    assert [each["visible"] for each in expressions if "expression" not in each] == [False]
    assert graph["yAxis"]["left"]["label"] == "hours"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboards_widgets_fit_the_grid_and_do_not_overlap(name: str) -> None:
    cells = [
        (x, y)
        for widget in dashboard(name)["widgets"]
        for x in range(widget["x"], widget["x"] + widget["width"])
        for y in range(widget["y"], widget["y"] + widget["height"])
    ]

    assert len(cells) == len(set(cells))
    assert {x for x, _ in cells} == set(range(24))


@pytest.mark.parametrize(
    ("name", "alarms"), [("Dashboard", ALARMS), ("FleetDashboard", FLEET_ALARMS)]
)
def test_a_dashboard_shows_the_state_of_every_alarm(name: str, alarms: tuple[str, ...]) -> None:
    (widget,) = [each for each in dashboard(name)["widgets"] if each["type"] == "alarm"]

    assert widget["properties"]["alarms"] == [f"<{alarm}.Arn>" for alarm in alarms]


def shown_metrics(name: str) -> dict[str, tuple[str, str, str]]:
    """Return the namespace and the dimension of each metric that a dashboard shows."""
    shown = {}
    for widget in dashboard(name)["widgets"]:
        above: list[Json] = []
        for row in widget["properties"].get("metrics", []):
            if not isinstance(row[0], str):
                continue
            # A dot stands for what the row above has in its place.
            above = [above[at] if cell == "." else cell for at, cell in enumerate(row)]
            shown[above[1]] = (above[0], above[2], above[3])
    return shown


def test_the_dashboard_shows_every_metric_there_is_under_its_one_dimension() -> None:
    own = ("QwenTokenRefresh", "service", "<AWS::StackName>")
    function = ("AWS/Lambda", "FunctionName", "<RefreshFunction>")
    assert shown_metrics("Dashboard") == dict.fromkeys(METRICS, own) | dict.fromkeys(
        ("Duration", "Errors", "Throttles"), function
    )


def test_the_fleets_dashboard_shows_every_metric_of_the_fleet_and_of_its_queues() -> None:
    own = ("QwenTokenRefresh", "service", "<AWS::StackName>.fleet")
    dead_letters = ("AWS/SQS", "QueueName", "<FleetDeadLetterQueue.QueueName>")
    assert shown_metrics("FleetDashboard") == {
        # No worker reports RunCompleted: the fleet's alarm waits for a sweep that came to its end.
        **dict.fromkeys({*METRICS, "SweepCompleted"} - {"RunCompleted"}, own),
        # Shown of both queues; the last one counts here.
        "ApproximateNumberOfMessagesVisible": dead_letters,
        "ApproximateAgeOfOldestMessage": ("AWS/SQS", "QueueName", "<FleetQueue.QueueName>"),
    }


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_graph_says_its_region_and_names_a_period_cloudwatch_has(name: str) -> None:
    graphs = [each["properties"] for each in dashboard(name)["widgets"] if each["type"] == "metric"]

    assert graphs
    assert all(each["region"] == "<AWS::Region>" for each in graphs)
    # Beyond 63 days back, CloudWatch has hours only; within them, five minutes.
    assert all(each["period"] % 300 == 0 for each in graphs)


def test_a_dashboards_name_is_its_own_in_every_region_and_no_other_stacks() -> None:
    names = [RESOURCES[name]["Properties"]["DashboardName"]["Fn::Sub"] for name in DASHBOARDS]

    # No stack's name has an underscore, and a dashboard's may have no dot.
    assert names == ["${AWS::StackName}_${AWS::Region}", "${AWS::StackName}_fleet_${AWS::Region}"]
    filled = [re.sub(r"\$\{[^}]+\}", "x-1", name) for name in names]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,255}", name) for name in filled)
