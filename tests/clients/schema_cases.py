"""Holds configuration files against the JSON schema, by a validator that is not ours.

usage: schema_cases.py SCHEMA CONFIG...

Each file must fit, and must not fit any more once a key is misspelt or has a
value of another type, at the top and in every table.
"""

import copy
import json
import sys
import tomllib

import jsonschema


def tables(value, path=()):
    """Every table of a file, with the path that leads to it."""
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            yield from tables(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from tables(inner, (*path, index))


def at(config, path):
    """The table that a path leads to."""
    for key in path:
        config = config[key]
    return config


def main():
    schema_path, *config_paths = sys.argv[1:]
    with open(schema_path, encoding="utf-8") as file:
        schema = json.load(file)
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    validator = kind(schema)
    wrong = []
    for name in config_paths:
        with open(name, "rb") as file:
            config = tomllib.load(file)
        for error in validator.iter_errors(config):
            wrong.append(f"{name}: {error.json_path}: {error.message}")
        for path, table in tables(config):
            if path and path[-1] == "required_claims":
                continue  # Its keys are names of claims.
            changed = copy.deepcopy(config)
            at(changed, path)["misspelt"] = 1
            if validator.is_valid(changed):
                wrong.append(f"{name}: a misspelt key passes in {path}")
            for key in table:
                changed = copy.deepcopy(config)
                at(changed, path)[key] = {"of": {"another": "type"}}
                if validator.is_valid(changed):
                    wrong.append(f"{name}: {key} in {path} takes anything")
    print("\n".join(wrong) or "fits")
    sys.exit(bool(wrong))


main()
