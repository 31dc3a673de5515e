"""The reader of templates: CloudFormation's short forms mean what CloudFormation says."""

import pytest

from localcloud.cloudformation import read_template


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("!Ref Secret", {"Ref": "Secret"}),
        ("!Condition HasFleet", {"Condition": "HasFleet"}),
        ("!GetAtt Secret.Id", {"Fn::GetAtt": ["Secret", "Id"]}),
        ("!GetAtt [Secret, Id]", {"Fn::GetAtt": ["Secret", "Id"]}),
        ("!GetAtt Stack.Outputs.Arn", {"Fn::GetAtt": ["Stack", "Outputs.Arn"]}),
        ("!Not [!Condition HasFleet]", {"Fn::Not": [{"Condition": "HasFleet"}]}),
        ("!Sub arn:${Name}", {"Fn::Sub": "arn:${Name}"}),
    ],
)
def test_a_short_form_is_read_as_the_long_one(short: str, long: object) -> None:
    assert read_template(f"value: {short}") == {"value": long}
