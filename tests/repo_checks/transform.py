"""Print the template as CloudFormation gets to see it, for scanners that know no SAM.

    .tools/cloud/bin/python tests/repo_checks/transform.py AlertEmail=… < template.yaml > plain.json

SAM's own translator does it. Then the conditions are decided, for the parameters' defaults or the
values given, and policies that are text are read: a scanner looks past what has an Fn::If in it.
After an argument ``--`` come the values of another template; each is a line of the output.
"""

import json
import os
import sys
from copy import deepcopy
from typing import Any

# The translator asks boto3 for a region, and makes no call.
os.environ["AWS_DEFAULT_REGION"] = "us-east-1"

from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

NOTHING = {"Ref": "AWS::NoValue"}


def main() -> None:
    template = yaml_parse(sys.stdin.read())
    for resource in template["Resources"].values():
        for uri in ("CodeUri", "ContentUri"):
            if uri in resource.get("Properties", {}):
                # What `sam package` would put there. It is not looked at.
                resource["Properties"][uri] = "s3://bucket/key"
    sets: list[dict[str, str]] = [{}]
    for argument in sys.argv[1:]:
        if argument == "--":
            sets.append({})
        else:
            name, _, value = argument.partition("=")
            sets[-1][name] = value
    for given in sets:
        sys.stdout.write(json.dumps(_plain(deepcopy(template), given)) + "\n")


def _plain(template: Any, given: dict[str, str]) -> Any:
    values = {name: each["Default"] for name, each in template["Parameters"].items()}
    if unknown := given.keys() - values.keys():
        sys.exit(f"the template has no parameter {', '.join(sorted(unknown))}")
    values |= {"AWS::Partition": "aws", "AWS::Region": "eu-central-1"} | given
    plain = Translator({}, Parser()).translate(template, parameter_values={})
    conditions = plain.pop("Conditions")
    chosen = {name: _holds(each, values) for name, each in conditions.items()}
    plain["Resources"] = {
        name: _decided(resource, chosen)
        for name, resource in plain["Resources"].items()
        if chosen.get(resource.pop("Condition", None), True)
    }
    plain["Outputs"] = _decided(plain["Outputs"], chosen)
    return plain


def _holds(condition: Any, values: dict[str, Any]) -> bool:
    [(function, operands)] = condition.items()
    match function:
        case "Fn::Not":
            return not _holds(operands[0], values)
        case "Fn::And":
            return all(_holds(each, values) for each in operands)
        case "Fn::Or":
            return any(_holds(each, values) for each in operands)
        case "Fn::Equals":
            one, other = (
                values[each["Ref"]] if isinstance(each, dict) else each for each in operands
            )
            return bool(one == other)
    raise NotImplementedError(function)


def _decided(node: Any, chosen: dict[str, bool]) -> Any:
    if isinstance(node, dict):
        if "Fn::If" in node:
            name, then, otherwise = node["Fn::If"]
            return _decided(then if chosen[name] else otherwise, chosen)
        if isinstance(document := node.get("PolicyDocument"), dict) and "Fn::Sub" in document:
            # JSON, because a parameter is part of a key.
            node = {**node, "PolicyDocument": json.loads(document["Fn::Sub"])}
        decided = {key: _decided(value, chosen) for key, value in node.items()}
        return {key: value for key, value in decided.items() if value != NOTHING}
    if isinstance(node, list):
        return [each for each in (_decided(each, chosen) for each in node) if each != NOTHING]
    return node


main()
