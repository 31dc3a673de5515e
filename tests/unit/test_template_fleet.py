"""The template's fleet part: none of it without ``Fleet``, and with it no more than it needs."""

import json
import re
from typing import Any

import pytest

import worker
from qwen_token.fleet import WRITES_PER_SECOND
from qwen_token.policy import BRAKE
from tests.unit import test_dispatch, test_worker
from tests.unit.template import (
    PARAMETERS,
    RESOURCES,
    Json,
    actions,
    dicts,
    function_properties,
    holds,
    policies,
)

FUNCTIONS = ("DispatchFunction", "WorkerFunction")
THE_QUEUE = {"Fn::GetAtt": ["FleetQueue", "Arn"]}
THE_TOPIC = {"Ref": "AlertTopic"}
WHERE_LOOPS_ARE_DETECTED = {"Fn::If": ["HasLoopDetection", "Allow", {"Ref": "AWS::NoValue"}]}
ANY_SECRET = "arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}:secret:*"
THE_BUS = {
    "Fn::Sub": "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:event-bus/default"
}
ANY_SESSION = f"{ANY_SECRET}/session-??????"
KEEPS = {
    "secretsmanager:DescribeSecret",
    "secretsmanager:GetSecretValue",
    "secretsmanager:PutSecretValue",
    "secretsmanager:UpdateSecretVersionStage",
}
TURNS = ({"dynamodb:GetItem", "dynamodb:UpdateItem"}, {"Fn::GetAtt": ["StateTable", "Arn"]})
THE_KEY = {"Ref": "SecretKmsKeyArn"}


def properties(name: str) -> Any:
    resource = RESOURCES[name]
    if resource["Type"] == "AWS::Serverless::Function":
        return function_properties(name)
    return resource["Properties"]


def test_without_the_fleet_there_is_what_keeps_one_token_and_not_one_resource_more() -> None:
    assert {name for name, each in RESOURCES.items() if each.get("Condition") != "HasFleet"} == {
        "Secret",
        "SessionSecret",
        "StateTable",
        "TokenLayer",
        "RuntimeLayer",
        "RefreshFunction",
        "RefreshFunctionLogGroup",
        "RefreshFunctionRole",
        "ScheduleRole",
        "CheckTimer",
        "VpcPolicy",
        "AlertTopic",
        "AlertTopicPolicy",
        "AlertEmailSubscription",
        "AlarmEmailTopic",
        "AlarmEmailSubscription",
        "RefreshFailedAlarm",
        "LoginEndingAlarm",
        "TokenExpiredAlarm",
        "KeeperSilentAlarm",
        "ReaderPolicy",
        "Dashboard",
    }


@pytest.mark.parametrize(
    ("name", "environ"),
    [("DispatchFunction", test_dispatch.ENVIRON), ("WorkerFunction", test_worker.ENVIRON)],
)
def test_the_environment_is_what_the_code_reads(name: str, environ: dict[str, str]) -> None:
    # That the code reads all of these and no other is tested beside it.
    variables = properties(name)["Environment"]["Variables"]
    own = {key for key in variables if not key.startswith("POWERTOOLS_")}

    assert own == environ.keys()
    assert variables["POWERTOOLS_SERVICE_NAME"] == {"Fn::Sub": "${AWS::StackName}.fleet"}
    assert variables["POWERTOOLS_METRICS_NAMESPACE"] == "QwenTokenRefresh"


@pytest.mark.parametrize(
    ("logical_id", "allowed"),
    [
        (
            "DispatchFunctionRole",
            [
                ({"secretsmanager:GetSecretValue"}, ANY_SECRET),
                ({"secretsmanager:GetSecretValue"}, ANY_SESSION),
                ({"secretsmanager:BatchGetSecretValue", "secretsmanager:ListSecrets"}, "*"),
                ({"sqs:SendMessage"}, THE_QUEUE),
                TURNS,
                ({"sns:Publish"}, THE_TOPIC),
                (
                    {"logs:CreateLogStream", "logs:PutLogEvents"},
                    {"Fn::GetAtt": ["DispatchFunctionLogGroup", "Arn"]},
                ),
                ({"kms:Decrypt"}, THE_KEY),
            ],
        ),
        (
            "DispatchGoesOn",
            [({"lambda:InvokeFunction"}, {"Fn::GetAtt": ["DispatchFunction", "Arn"]})],
        ),
        (
            "DispatchScheduleRole",
            [({"lambda:InvokeFunction"}, {"Fn::GetAtt": ["DispatchFunction", "Arn"]})],
        ),
        (
            "WorkerFunctionRole",
            [
                (KEEPS, ANY_SECRET),
                (KEEPS, ANY_SESSION),
                (
                    {
                        "sqs:ChangeMessageVisibility",
                        "sqs:DeleteMessage",
                        "sqs:GetQueueAttributes",
                        "sqs:ReceiveMessage",
                        "sqs:SendMessage",
                    },
                    THE_QUEUE,
                ),
                TURNS,
                ({"sns:Publish"}, THE_TOPIC),
                ({"events:PutEvents"}, THE_BUS),
                (
                    {"logs:CreateLogStream", "logs:PutLogEvents"},
                    {"Fn::GetAtt": ["WorkerFunctionLogGroup", "Arn"]},
                ),
                ({"kms:Decrypt", "kms:GenerateDataKey"}, THE_KEY),
            ],
        ),
    ],
)
def test_a_policy_allows_what_the_code_does_and_nothing_else(
    logical_id: str, allowed: list[tuple[set[str], Json]]
) -> None:
    statements = policies(logical_id)

    assert [(actions(each), each["Resource"]) for each in statements] == allowed
    denied = [each["Sid"] for each in statements if each["Effect"] != "Allow"]
    assert denied == ["NoSessionWhateverItsTag"] * (logical_id == "DispatchFunctionRole")


@pytest.mark.parametrize("role", ["DispatchFunctionRole", "WorkerFunctionRole"])
def test_tokens_are_open_to_the_fleet_by_their_tag_alone(role: str) -> None:
    [of_tokens] = [each for each in policies(role) if each["Resource"] == ANY_SECRET]

    assert of_tokens["Condition"] == {
        "Null": {"aws:ResourceTag/${FleetTag}": "false"},
        "StringNotEquals": {"aws:ResourceTag/${FleetTag}": ["off", "session"]},
    }


def test_sessions_are_open_to_workers_by_their_tag_and_their_name_and_closed_to_dispatch() -> None:
    [of_workers] = [
        each for each in policies("WorkerFunctionRole") if each["Resource"] == ANY_SESSION
    ]
    [of_dispatch] = [
        each for each in policies("DispatchFunctionRole") if each["Resource"] == ANY_SESSION
    ]

    assert of_workers["Effect"] == "Allow"
    assert of_workers["Condition"] == {"StringEquals": {"aws:ResourceTag/${FleetTag}": "session"}}
    assert of_dispatch["Effect"] == "Deny"
    assert "Condition" not in of_dispatch


@pytest.mark.parametrize("role", ["DispatchFunctionRole", "WorkerFunctionRole"])
def test_a_customer_key_is_used_through_secrets_manager_only(role: str) -> None:
    [with_key] = [each for each in policies(role) if each["Resource"] == THE_KEY]
    # The service's name ends like this in every partition.
    service = {"Fn::Sub": "secretsmanager.${AWS::Region}.amazonaws.com"}

    assert with_key["Condition"] == {"StringEquals": {"kms:ViaService": service}}


def test_the_fleets_schedule_is_like_the_keepers_at_its_own_times_and_under_its_own_role() -> None:
    timer = properties("DispatchFunction")["Events"]["Timer"]["Properties"]
    keepers = properties("RefreshFunction")["Events"]["Timer"]["Properties"]

    own = {
        "Description": timer["Description"],
        "ScheduleExpression": {"Ref": "FleetSchedule"},
        "RoleArn": {"Fn::GetAtt": ["DispatchScheduleRole", "Arn"]},
    }
    assert timer == keepers | own
    assert (
        properties("DispatchScheduleRole")["AssumeRolePolicyDocument"]
        == properties("ScheduleRole")["AssumeRolePolicyDocument"]
    )


def test_a_sweep_is_not_tried_again_by_lambda_and_may_go_on_for_as_long_as_it_takes() -> None:
    dispatch = properties("DispatchFunction")

    assert dispatch["EventInvokeConfig"]["MaximumRetryAttempts"] == 0
    assert dispatch["RecursiveLoop"] == WHERE_LOOPS_ARE_DETECTED


def test_what_a_worker_puts_off_is_not_taken_for_an_endless_loop() -> None:
    # Lambda would stop it, and what it puts off would become dead letters.
    assert properties("WorkerFunction")["RecursiveLoop"] == WHERE_LOOPS_ARE_DETECTED


@pytest.mark.parametrize(
    ("partition", "region", "detects"),
    [
        ("aws", "eu-central-1", True),
        ("aws", "us-east-1", True),
        ("aws", "mx-central-1", False),
        ("aws", "ap-southeast-6", False),
        ("aws-cn", "cn-north-1", False),
        ("aws-us-gov", "us-gov-west-1", False),
        ("aws-eusc", "eusc-de-east-1", False),
    ],
)
def test_the_property_is_left_out_where_lambda_may_refuse_it(
    partition: str, region: str, *, detects: bool
) -> None:
    where = {"AWS::Partition": partition, "AWS::Region": region}

    assert holds({"Condition": "HasLoopDetection"}, where) is detects


def test_the_queue_gives_a_worker_the_time_that_aws_advises_and_a_crash_three_tries() -> None:
    queue = properties("FleetQueue")

    function = properties("WorkerFunction")
    window = function["Events"]["Jobs"]["Properties"]["MaximumBatchingWindowInSeconds"]
    assert queue["VisibilityTimeout"] == 6 * function["Timeout"] + window
    assert queue["RedrivePolicy"] == {
        "deadLetterTargetArn": {"Fn::GetAtt": ["FleetDeadLetterQueue", "Arn"]},
        "maxReceiveCount": 3,
    }
    assert properties("FleetDeadLetterQueue")["MessageRetentionPeriod"] == 14 * 86_400


def test_a_killed_workers_urgent_jobs_come_back_while_an_access_token_lives() -> None:
    token, due_after = 900, BRAKE.total_seconds()
    trigger = properties("WorkerFunction")["Events"]["Jobs"]["Properties"]
    taken_by = due_after + trigger["MaximumBatchingWindowInSeconds"]
    timeout = properties("WorkerFunction")["Timeout"]

    assert taken_by + timeout + worker._CLEARING <= token - 120, "and two minutes are left"


def test_what_crashes_is_told_as_a_dead_letter_before_it_is_told_as_old() -> None:
    queue = properties("FleetQueue")
    buried_after = queue["VisibilityTimeout"] * queue["RedrivePolicy"]["maxReceiveCount"]

    assert properties("FleetQueueOldAlarm")["Threshold"] > buried_after


def test_the_workers_are_bounded_where_the_queue_calls_them() -> None:
    trigger = properties("WorkerFunction")["Events"]["Jobs"]["Properties"]
    environment = properties("WorkerFunction")["Environment"]["Variables"]

    assert trigger["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert trigger["ScalingConfig"] == {"MaximumConcurrency": {"Ref": "FleetMaximumConcurrency"}}
    # By this many, each divides what they may write together.
    assert environment["MAXIMUM_CONCURRENCY"] == {"Ref": "FleetMaximumConcurrency"}
    # Lambda wants a window for batches of more than ten.
    assert trigger["MaximumBatchingWindowInSeconds"] >= 1


def test_the_largest_batch_fits_into_a_workers_time_at_the_slowest_pace() -> None:
    batch = PARAMETERS["FleetBatchSize"]["MaxValue"]
    workers = PARAMETERS["FleetMaximumConcurrency"]["MaxValue"]
    # A session that rotates takes as many writes as the token.
    seconds = 4 * batch * workers / WRITES_PER_SECOND

    assert seconds <= properties("WorkerFunction")["Timeout"] / 2


@pytest.mark.parametrize("name", ["FleetLoginEndingAlarm", "FleetTokenExpiredAlarm"])
def test_what_ends_is_not_forgotten_for_what_is_said_of_others(name: str) -> None:
    alarm = properties(name)
    hour = 3600

    # FleetSchedule allows for 12 hours; jobs are delayed, and wait for a worker.
    assert alarm["Period"] * alarm["EvaluationPeriods"] >= 13 * hour
    assert alarm["DatapointsToAlarm"] == 1
    assert alarm["Period"] == 300, "it goes off at once"


def test_what_the_functions_of_the_fleet_log_is_kept_like_what_the_keeper_logs() -> None:
    for name in FUNCTIONS:
        group = properties(f"{name}LogGroup")
        assert group["RetentionInDays"] == {"Ref": "LogRetentionDays"}
        assert properties(name)["LoggingConfig"] == {
            "LogGroup": {"Ref": f"{name}LogGroup"},
            "LogFormat": "JSON",
            "ApplicationLogLevel": "INFO",
        }


def test_a_policy_with_a_parameter_in_a_key_is_json_for_every_tag_that_the_template_takes() -> None:
    documents = [
        each["PolicyDocument"]["Fn::Sub"]
        for each in dicts(RESOURCES)
        if "Fn::Sub" in each.get("PolicyDocument", {})
    ]

    assert len(documents) == 2
    for document in documents:
        filled = re.sub(r"\$\{FleetTag\}", "team:qwen/token@1.0=x+y_z", document)
        [of_tokens, _] = json.loads(filled)["Statement"]
        assert "aws:ResourceTag/team:qwen/token@1.0=x+y_z" in of_tokens["Condition"]["Null"]
