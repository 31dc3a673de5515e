"""Reads templates, and does the part of CloudFormation that the emulator does not."""

import re
from collections.abc import Mapping
from typing import Any

import yaml


class _Loader(yaml.CSafeLoader):
    """Reads CloudFormation's short forms (``!Ref x``) as long ones (``{"Ref": "x"}``)."""


def _intrinsic(loader: _Loader, tag: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        raise TypeError(tag)
    if tag == "GetAtt" and isinstance(value, str):
        value = value.split(".", maxsplit=1)
    return {tag if tag in {"Ref", "Condition"} else f"Fn::{tag}": value}


_Loader.add_multi_constructor("!", _intrinsic)


def read_template(text: str) -> dict[str, Any]:
    """Return a template in its JSON form."""
    template: dict[str, Any] = _Loader(text).get_single_data()
    return template


def resolved(node: Any, values: Mapping[str, str], conditions: Mapping[str, Any]) -> Any:
    """Return ``node`` with Ref, Sub and If resolved; ``values`` has the parameters and the like."""
    match node:
        case {"Ref": name}:
            return values[name]
        case {"Fn::Sub": text}:
            return re.sub(r"\$\{([\w:]+)\}", lambda found: values[found[1]], text)
        case {"Fn::If": [condition, then, otherwise]}:
            one, other = resolved(conditions[condition]["Fn::Equals"], values, conditions)
            return resolved(then if one == other else otherwise, values, conditions)
        case dict():
            return {key: resolved(value, values, conditions) for key, value in node.items()}
        case list():
            return [resolved(each, values, conditions) for each in node]
    return node
