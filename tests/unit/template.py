"""The template as data, for the tests of what it says."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from localcloud.cloudformation import read_template

type Json = Any

TEMPLATE: Final[dict[str, Json]] = read_template(
    (Path(__file__).parents[2] / "template.yaml").read_text(encoding="utf-8")
)
PARAMETERS: Final = TEMPLATE["Parameters"]
RESOURCES: Final = TEMPLATE["Resources"]
OUTPUTS: Final = TEMPLATE["Outputs"]


def accepts(parameter: str, value: object) -> bool:
    """Say whether CloudFormation would: it matches patterns against the whole value."""
    definition = PARAMETERS[parameter]
    text = str(value)
    allowed = definition.get("AllowedValues")
    pattern = definition.get("AllowedPattern")
    return (
        (allowed is None or text in map(str, allowed))
        and (pattern is None or re.fullmatch(pattern, text) is not None)
        and definition.get("MinLength", 0) <= len(text) <= definition.get("MaxLength", 4096)
        and (definition["Type"] != "Number" or _in_range(text, definition))
    )


def _in_range(text: str, definition: Json) -> bool:
    try:
        number = float(text)
    except ValueError:
        return False
    return bool(definition.get("MinValue", number) <= number <= definition.get("MaxValue", number))


def texts(node: Json) -> Iterator[str]:
    """Yield every string below ``node``, keys included."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)
    elif isinstance(node, str):
        yield node


def dicts(node: Json) -> Iterator[dict[str, Json]]:
    """Yield every mapping below ``node``."""
    if isinstance(node, dict):
        yield node
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, dict | list):
            yield from dicts(value)


def named(node: Json) -> set[str]:
    """Return the parameters, resources and pseudo parameters that ``node`` refers to."""
    references = {each["Ref"] for each in dicts(node) if "Ref" in each}
    attributes = {each["Fn::GetAtt"][0] for each in dicts(node) if "Fn::GetAtt" in each}
    variables = {
        name.partition(".")[0]
        for text in texts(node)
        for name in re.findall(r"\$\{([^}!]+)\}", text)
    }
    return references | attributes | variables


def holds(condition: Json, values: Mapping[str, object]) -> bool:
    """Decide a condition, or a rule's assertion, for these values of all parameters."""
    match condition:
        case {"Condition": name}:
            return holds(TEMPLATE["Conditions"][name], values)
        case {"Fn::Not": [each]}:
            return not holds(each, values)
        case {"Fn::And": parts}:
            return all(holds(each, values) for each in parts)
        case {"Fn::Or": parts}:
            return any(holds(each, values) for each in parts)
        case {"Fn::Equals": [one, other]}:
            return bool(decided(one, values) == decided(other, values))
    raise NotImplementedError(condition)


def decided(node: Json, values: Mapping[str, object]) -> Json:
    """Return ``node`` with what depends on nothing but these parameter values put in."""
    match node:
        case {"Ref": name} if name in values:
            return values[name]
        case {"Fn::FindInMap": [name, *keys]}:
            found = TEMPLATE["Mappings"][name]
            for key in keys:
                found = found[decided(key, values)]
            return found
        case dict():
            return {key: decided(each, values) for key, each in node.items()}
        case list():
            return [decided(each, values) for each in node]
    return node


def function_properties(logical_id: str) -> dict[str, Json]:
    """Return a function's properties as SAM makes them: on those of all functions lie its own."""
    properties: dict[str, Json] = _merged(
        TEMPLATE["Globals"]["Function"], RESOURCES[logical_id]["Properties"]
    )
    return properties


def _merged(common: Json, own: Json) -> Json:
    """Merge as SAM does: mappings key by key, lists one after the other; else, the own counts."""
    if isinstance(common, dict) and isinstance(own, dict):
        both = {key: _merged(common[key], own[key]) for key in common.keys() & own.keys()}
        return {**common, **own, **both}
    return [*common, *own] if isinstance(common, list) and isinstance(own, list) else own


def policies(logical_id: str) -> list[Json]:
    """Return the statements of a role's or managed policy's own policies, conditions resolved."""
    properties = RESOURCES[logical_id]["Properties"]
    documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
    documents += [properties["PolicyDocument"]] if "PolicyDocument" in properties else []
    return [
        statement["Fn::If"][1] if "Fn::If" in statement else statement
        for document in documents
        for statement in _read(document)["Statement"]
    ]


def _read(document: Json) -> Json:
    """Read a policy's document; one with a parameter in a key is written as JSON."""
    return json.loads(document["Fn::Sub"]) if "Fn::Sub" in document else document


def dashboard(logical_id: str = "Dashboard", **values: str) -> Json:
    """Return a dashboard's body for these parameter values."""
    chosen = {name: str(each["Default"]) for name, each in PARAMETERS.items()} | values
    body = RESOURCES[logical_id]["Properties"]["DashboardBody"]["Fn::Sub"]
    return json.loads(
        re.sub(r"\$\{([^}]+)\}", lambda match: chosen.get(match[1], f"<{match[1]}>"), body)
    )


def actions(statement: Json) -> set[str]:
    """Return a statement's actions, whether it has one or a list."""
    action = statement["Action"]
    return {action} if isinstance(action, str) else set(action)
