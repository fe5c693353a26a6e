#!/usr/bin/env python3
"""Checks the dependency tree against deny.toml, for machines without cargo-deny.

    .ci/check-deps.py [DIRECTORY]

Looks at every crate that is built for any target with any feature: its licence, its source, and whether
it is banned. It reads the subset of deny.toml that this project uses, and fails on what it cannot read.
"""

import json
import pathlib
import re
import subprocess
import sys
import tomllib


def cargo(directory, *arguments):
    done = subprocess.run(
        ["cargo", *arguments], cwd=directory, check=True, capture_output=True, text=True, timeout=300
    )
    return done.stdout


def built_crates(directory):
    """Name and version of every crate in the tree.

    `cargo metadata` also lists crates that only a weak feature names and that nothing builds, so the set
    comes from `cargo tree`.
    """
    text = cargo(
        directory, "tree", "--workspace", "--all-features", "--target", "all",
        "--edges", "normal,build,dev", "--prefix", "none", "--format", "{p}",
    )
    found = set()
    for line in text.splitlines():
        match = re.match(r"(\S+) v(\S+)", line)
        if match:
            found.add(match.groups())
    return found


def licence_holds(expression, allowed):
    """Whether an SPDX expression can be satisfied by the allowed licences alone."""
    # Older crates write "A/B" where they mean "A OR B".
    expression = re.sub(r"\s*/\s*", " OR ", expression)
    tokens = re.findall(r"\(|\)|[^\s()]+", expression)

    def either():
        value = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            value = both() or value
        return value

    def both():
        value = single()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            value = single() and value
        return value

    def single():
        token = tokens.pop(0)
        if token == "(":
            value = either()
            tokens.pop(0)
            return value
        if tokens and tokens[0] == "WITH":
            tokens.pop(0)
            token = f"{token} WITH {tokens.pop(0)}"
        return token in allowed

    value = either()
    if tokens:
        raise ValueError(f"cannot read the licence {expression!r}")
    return value


def version_key(version):
    """Numbers to compare by, with a pre-release before its release."""
    plain = version.split("+")[0]
    release, _, pre = plain.partition("-")
    numbers = [int(part) for part in release.split(".")]
    return numbers + [0] * (3 - len(numbers)), pre == "", pre


def ban_of(name, version, bans):
    for ban in bans:
        banned, _, below = ban["crate"].partition(":")
        if below and not re.fullmatch(r"<\d+\.\d+\.\d+", below):
            raise ValueError(f"cannot read the ban {ban['crate']!r}; write name or name:<1.2.3")
        if name == banned and (not below or version_key(version) < version_key(below[1:])):
            return ban
    return None


def problems_of(package, rules):
    name, version = package["name"], package["version"]
    licence, source = package.get("license"), package.get("source")
    allowed_sources = {f"registry+{url}" for url in rules["sources"]["allow-registry"]}
    # A package of the workspace has no source.
    if source is not None and source not in allowed_sources:
        yield f"{name} {version}: comes from {source}"
    if not licence:
        yield f"{name} {version}: names no licence"
    elif not licence_holds(licence, set(rules["licenses"]["allow"])):
        yield f"{name} {version}: licence {licence} is not in the list of deny.toml"
    ban = ban_of(name, version, rules["bans"]["deny"])
    if ban:
        yield f"{name} {version}: banned as {ban['crate']}: {ban['reason']}"


def main():
    directory = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    rules = tomllib.loads((pathlib.Path(__file__).parent.parent / "deny.toml").read_text())
    built = built_crates(directory)
    metadata = json.loads(cargo(directory, "metadata", "--format-version", "1", "--all-features"))
    packages = [p for p in metadata["packages"] if (p["name"], p["version"]) in built]
    if len(packages) < len(built):
        sys.exit(f"cargo metadata describes {len(packages)} of {len(built)} crates")
    problems = [problem for package in packages for problem in problems_of(package, rules)]
    for problem in problems:
        print(problem)
    if problems:
        sys.exit(f"{len(problems)} problems in {len(packages)} crates")
    print(f"{len(packages)} crates: licences, sources and bans are as deny.toml wants them")


if __name__ == "__main__":
    main()
