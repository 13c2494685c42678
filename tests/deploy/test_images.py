"""Each role has an image that holds what it needs and no more, and a page that says what it does."""

import re
import tomllib
from pathlib import Path

import pytest

from evolvent import acl
from evolvent.provision import ROLES
from evolvent_schemas import FACTS, Fact
from evolvent_schemas.catalog import woken

ROOT = Path(__file__).parents[2]
IMAGES = {role: ROOT / "services" / role / "Dockerfile" for role in ROLES}
IMAGES["experiment"] = ROOT / "services" / "engineer" / "Dockerfile.experiment"
every_image = pytest.mark.parametrize("name", IMAGES)
every_role = pytest.mark.parametrize("role", ROLES)


def steps(name: str) -> list[str]:
    text = IMAGES[name].read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def extras(name: str) -> list[str]:
    (line,) = [step for step in steps(name) if step.startswith("ARG EXTRAS=")]
    return [extra for extra in line.partition("=")[2].strip('"').split(",") if extra]


@every_image
def test_an_image_is_pinned_and_runs_as_nobody(name: str) -> None:
    assert re.fullmatch(r"ARG PYTHON=python:3\.\d+\.\d+-slim-\w+", steps(name)[0])
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
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras(name)) <= set(known)
    assert ("experiment" == name) == ("training" in extras(name))


@every_image
def test_what_is_copied_exists(name: str) -> None:
    copied = [step.split()[1:-1] for step in steps(name) if step.startswith("COPY") and "--from" not in step]
    assert [] == [path for paths in copied for path in paths if not (ROOT / path).exists()]


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
