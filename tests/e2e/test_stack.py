"""What a deployment does to the secret: it makes one, or takes one, and never takes it away."""

from datetime import timedelta
from pathlib import Path

from tests.localcloud.aws import Cloud
from tests.localcloud.qwen import FakeQwen
from tests.localcloud.stack import Stack


def delete(stack: Stack) -> None:
    client = stack.cloud.cloudformation
    client.delete_stack(StackName=stack.name)
    client.get_waiter("stack_delete_complete").wait(
        StackName=stack.name, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )


def test_a_secret_outlives_its_stack_and_serves_the_next_one(cloud: Cloud, built: Path) -> None:
    with FakeQwen() as qwen:
        first = cloud.deploy(
            built,
            name="first",
            parameters={"SecretName": "kept/token", "ApiBaseUrl": qwen.base_url},
        )
        run = first.invoke()
        assert run.result is not None
        assert run.result["outcome"] == "awaiting_token"
        [alert] = first.notifications()
        assert alert.attributes == {"severity": "warning", "reason": "token_missing"}
        raw = qwen.mint(lifetime=timedelta(days=2))
        first.put(raw)

        delete(first)

        stored = cloud.secretsmanager.get_secret_value(SecretId=first.secret_arn)
        assert stored["SecretString"] == raw

        second = cloud.deploy(
            built,
            name="second",
            parameters={"SecretArn": first.secret_arn, "ApiBaseUrl": qwen.base_url},
        )
        assert second.secret_arn == first.secret_arn
        assert "Secret" not in second.resources()
        run = second.invoke()
        assert run.result is not None
        assert run.result["outcome"] == "refreshed"
        assert qwen.accepts(second.current().text)
        assert second.current().text != raw

        delete(second)

        assert qwen.accepts(
            cloud.secretsmanager.get_secret_value(SecretId=first.secret_arn)["SecretString"]
        )
