"""Each role has an image that holds what it needs and no more, and a page that says what it does."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from evolvent import acl
from evolvent.provision import ROLES
from evolvent_schemas import FACTS, Fact
from evolvent_schemas.catalog import woken

ROOT = Path(__file__).parents[2]
IMAGES = {role: ROOT / "services" / role / "Dockerfile" for role in ROLES}
IMAGES["experiment"] = ROOT / "services" / "engineer" / "Dockerfile.experiment"
STARTED: dict[str, tuple[str, ...]] = {role: (f"evolvent_{role}", "evolvent.serve") for role in ROLES}
STARTED["engineer"] += ("evolvent_engineer.kubernetes.role",)
STARTED["cognition"] += ("evolvent_cognition.qdrant",)
STARTED["experiment"] = ("evolvent_engineer.pod.__main__",)
"""What the container of an image imports, also what it does only when it is at work."""
every_image = pytest.mark.parametrize("name", IMAGES)
every_role = pytest.mark.parametrize("role", ROLES)


def steps(name: str) -> list[str]:
    text = IMAGES[name].read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def extras(name: str) -> list[str]:
    (line,) = [step for step in steps(name) if step.startswith("ARG EXTRAS=")]
    return line.partition("=")[2].strip('"').split()


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def required(name: str) -> list[str]:
    found = project()
    lists: list[list[str]] = [found["dependencies"], *(found["optional-dependencies"][extra] for extra in extras(name))]
    return [line for lines in lists for line in lines]


@every_image
def test_an_image_is_pinned_by_digest_and_runs_as_nobody(name: str) -> None:
    assert re.fullmatch(r"ARG PYTHON=python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", steps(name)[0])
    assert {"FROM ${PYTHON} AS build", "FROM ${PYTHON}"} == {step for step in steps(name) if step.startswith("FROM")}
    assert "USER 65532:65532" in steps(name)
    assert "--constraint constraints.txt" in IMAGES[name].read_text()


@every_image
def test_the_build_differs_by_its_extras_only(name: str) -> None:
    def build(of: str) -> list[str]:
        found = steps(of)
        return [step for step in found[: found.index("FROM ${PYTHON}")] if not step.startswith("ARG EXTRAS")]

    assert build("conductor") == build(name)


@every_image
def test_extras_are_those_of_the_package_and_torch_is_where_training_happens(name: str) -> None:
    assert set(extras(name)) <= set(project()["optional-dependencies"])
    assert ("experiment" == name) == ("training" in extras(name))


@every_image
def test_what_others_wrote_is_installed_first_and_apart(name: str) -> None:
    """A change of ours then costs a small layer, and not a new one with all of torch."""
    (step,) = [step for step in steps(name) if "requirements.txt" in step]
    listing = step.partition("&&")[2].partition("> requirements.txt")[0]
    environment = os.environ | {
        "EXTRAS": " ".join(extras(name)),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }
    done = subprocess.run(["sh", "-c", listing], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert required(name) == done.stdout.splitlines()
    assert steps(name).index(step) < steps(name).index("COPY evolvent evolvent")
    assert ["--no-deps"] == re.findall("--no-deps", "\n".join(steps(name)))


def closure(lines: list[str]) -> set[str]:
    """Name every distribution that these requirements bring here."""
    found: set[str] = set()
    waiting = [(Requirement(line), "") for line in lines]
    while waiting:
        requirement, extra = waiting.pop()
        name = str(canonicalize_name(requirement.name))
        if (requirement.marker is None or requirement.marker.evaluate({"extra": extra})) and name not in found:
            found.add(name)
            wanted = ["", *requirement.extras]
            waiting += [(Requirement(line), extra) for line in requires(name) or [] for extra in wanted]
    return found


_SOURCES = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.startswith("evolvent") and m.__file__]))
"""


def imported(name: str) -> set[str]:
    """Name the distributions that our code imports on its way to what the image runs."""
    command = [sys.executable, "-c", _SOURCES, *STARTED[name]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    bodies = [ast.parse(Path(path).read_text()).body for path in json.loads(done.stdout)]
    names = {alias.name for body in bodies for node in body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for body in bodies for node in body if isinstance(node, ast.ImportFrom)}
    known = packages_distributions()
    distributions = {each for name in names for each in known.get(name.partition(".")[0], [])}
    return {str(canonicalize_name(each)) for each in distributions} - {"evolvent"}


@every_image
def test_an_image_holds_every_package_that_it_imports(name: str) -> None:
    found = imported(name)
    assert {"pydantic", "structlog"} <= found
    assert found <= closure(required(name))


def copied(name: str) -> list[str]:
    found = [step.split()[1:-1] for step in steps(name) if step.startswith("COPY") and "--from" not in step]
    return [path for paths in found for path in paths]


@every_image
def test_what_is_copied_exists_and_nothing_else_is_sent_to_the_builder(name: str) -> None:
    assert [] == [path for path in copied(name) if not (ROOT / path).exists()]
    everything, *lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" == everything
    assert sorted(copied(name)) == sorted(line.removeprefix("!") for line in lines if line.startswith("!"))


@every_role
def test_an_image_runs_its_role(role: str) -> None:
    assert f'CMD ["python", "-m", "evolvent_{role}"]' == steps(role)[-1]


def listed(role: str, heading: str) -> list[str]:
    text = (ROOT / "services" / role / "README.md").read_text()
    return re.findall(r"^- `([a-z.]+)`$", text.partition(f"## {heading}\n")[2].partition("\n## ")[0], re.MULTILINE)


def types(classes: list[type[Fact]]) -> list[str]:
    return [cls.model_fields["type"].default for cls in classes]


@every_role
def test_a_page_lists_what_wakes_the_role_and_what_it_may_publish(role: str) -> None:
    assert types(woken(role)) == listed(role, "Consumes")
    assert types([cls for cls in FACTS.values() if acl.owned(role, cls)]) == listed(role, "Produces")


@every_role
def test_a_page_names_settings_and_failure_modes(role: str) -> None:
    text = (ROOT / "services" / role / "README.md").read_text()
    assert "## Settings\n| variable |" in text
    assert "## Failure modes\n| what happens |" in text
