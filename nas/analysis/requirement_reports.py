"""Results of requirements in the formats of build servers: JUnit XML and SARIF."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.etree import ElementTree

from nas.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nas.analysis.requirements import RequirementResult


def junit(results: Sequence[RequirementResult]) -> str:
    """Returns results as JUnit XML: a test suite for each network, and a test case for each requirement.

    Source: the schema of the Jenkins xUnit plugin, junit-10.xsd, https://github.com/jenkinsci/xunit-plugin.
    """
    failures = sum(not result.met for result in results)
    root = ElementTree.Element("testsuites", name="hardcell", tests=str(len(results)), failures=str(failures))
    for network in dict.fromkeys(result.network for result in results):
        of_network = [result for result in results if result.network == network]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=printable(network),
            tests=str(len(of_network)),
            failures=str(sum(not result.met for result in of_network)),
            errors="0",
            skipped="0",
        )
        for result in of_network:
            case = ElementTree.SubElement(
                suite, "testcase", classname=printable(network), name=printable(result.requirement.text), time="0"
            )
            if not result.met:
                ElementTree.SubElement(case, "failure", message=_sentence(result), type="requirement")
            ElementTree.SubElement(case, "system-out").text = f"measured {result.measured}"
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def sarif(results: Sequence[RequirementResult], places: Mapping[str, str]) -> str:
    """Returns the requirements that are not met as SARIF 2.1.0: a rule for each requirement, a result for each failure.

    Args:
        results: Results of the requirements.
        places: Path or full name of each network, by name. A result points to this file.

    Source: OASIS, Static Analysis Results Interchange Format 2.1.0,
    https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html.
    """
    rules = list(dict.fromkeys(result.requirement.text for result in results))
    content: dict[str, Any] = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "hardcell",
                        "version": version("hardcell"),
                        "rules": [{"id": rule, "shortDescription": {"text": f"Required: {rule}"}} for rule in rules],
                    }
                },
                "results": [
                    {
                        "ruleId": result.requirement.text,
                        "ruleIndex": rules.index(result.requirement.text),
                        "level": "error",
                        "message": {"text": f"{printable(result.network)}: {_sentence(result)}"},
                        "locations": _locations(places[result.network]),
                    }
                    for result in results
                    if not result.met
                ],
            }
        ],
    }
    return json.dumps(content, indent=2) + "\n"


def _sentence(result: RequirementResult) -> str:
    return f"required {printable(result.requirement.text)}, measured {result.measured}"


def _locations(place: str) -> list[dict[str, Any]]:
    """Returns the location of a network's file, or of a bundle's manifest; [] if there is no such file.

    Args:
        place: A path, FILE.py:NAME or package.module:NAME.
    """
    before, colon, _ = place.rpartition(":")
    path = Path(before if before.endswith(".py") else place)
    if not path.exists() and colon:
        try:
            spec = find_spec(before)
        except (ImportError, ValueError):
            spec = None
        path = Path(spec.origin) if spec is not None and spec.origin is not None else path
    if path.is_dir():
        path = path / "manifest.json"
    if not path.is_file():
        return []
    path = Path(os.path.normpath(path))
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())  # Build servers show only files inside the checkout.
    uri = path.as_uri() if path.is_absolute() else quote(os.fsencode(path.as_posix()))
    # SARIF results need a line. It is line 1.
    return [{"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}}]
