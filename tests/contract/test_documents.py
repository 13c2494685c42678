"""The published contract says everything, says it as the code does, and only ever grows."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from evolvent_schemas import Fact, envelope, generate, meanings
from evolvent_schemas.catalog import FACTS
from evolvent_schemas.documents import declarer, json_schema, meaning, models_of, summary
from tests.contract import strategies

ROOT = Path(__file__).parents[2]
every_fact = pytest.mark.parametrize("cls", FACTS.values(), ids=FACTS)
MODELS = {model for cls in FACTS.values() for model in models_of(cls).values()}
every_model = pytest.mark.parametrize(
    "model", sorted(MODELS, key=lambda model: model.__name__), ids=lambda m: m.__name__
)
UNITS = (
    "second",
    "hours",
    "MiB",
    "KiB",
    "byte",
    "dollar",
    "okens",
    "unit",
    "direction",
    "robability",
    "ow many",
    "umber of",
    "Counts",
    "ndex",
    "So many",
    "Rounds",
    "rounds",
    "roposals",
    "Largest",
    "seed",
    "more is better",
    "score",
    "threads",
    "value for it",
    "random numbers",
    "Which delivery",
)
"""Words by which a number, or its name, says what it counts or in what it is measured."""


def test_the_published_contract_is_what_the_code_declares():
    assert [] == generate.drifted(ROOT)


def test_the_published_contract_has_lost_nothing():
    assert [] == generate.breaks(ROOT)


@every_fact
def test_every_fact_says_what_happened(cls: type[Fact]):
    assert summary(cls).endswith(".")


@every_fact
def test_every_fact_stands_in_the_catalogue(cls: type[Fact]):
    name = cls.model_fields["type"].default
    rows = [line for line in (ROOT / "docs" / "facts.md").read_text().splitlines() if line.startswith(f"| `{name}` |")]
    assert 1 == len(rows)
    assert summary(cls) in rows[0]


@every_model
def test_every_field_says_what_it_means(model: type[BaseModel]):
    mute = [name for name, field in model.model_fields.items() if not meaning(model, name, field)]
    assert [] == mute


def _number(field: FieldInfo) -> type | None:
    """Tell whether a field is a number, perhaps an optional one, and of which kind."""
    return next((kind for kind in (int, float) if kind in {field.annotation, *get_args(field.annotation)}), None)


def _bounded(field: FieldInfo) -> bool:
    """Tell whether a range on both sides says what the number may be, as of a probability."""
    bounds = {name for each in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(each, name)}
    return bool(bounds & {"ge", "gt"} and bounds & {"le", "lt"})


@every_model
def test_every_number_says_what_it_counts_or_measures(model: type[BaseModel]):
    for name, field in model.model_fields.items():
        if _number(field) and not _bounded(field):
            said = meaning(model, name, field)
            assert any(unit in f"{name}: {said}" for unit in UNITS), f"{model.__name__}.{name}: {said!r} names no unit"


@every_model
def test_every_integer_has_a_range(model: type[BaseModel]):
    for name, field in model.model_fields.items():
        if _number(field) is int:
            assert field.metadata, f"{model.__name__}.{name} has no bound"


def test_no_meaning_is_left_over_from_a_field_that_is_gone():
    used = {
        name
        for model in MODELS
        for field in model.model_fields
        for name in (field, f"{declarer(model, field)}.{field}")
    }
    assert set() == set(meanings.MEANINGS) - used


@every_fact
def test_a_fact_validates_against_its_published_schema(cls: type[Fact]):
    schema = json.loads((ROOT / "schemas" / "json" / f"{cls.model_fields['type'].default}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategies.of(cls))
    def check(fact: Fact) -> None:
        validator.validate(json.loads(fact.body()) | {"added_later": 1})

    check()


@every_fact
def test_a_published_schema_says_how_the_fact_is_stored(cls: type[Fact]):
    schema = json_schema(cls)
    assert [cls.kind, cls.publisher, list(cls.wakes), list(cls.key_fields)] == [
        schema[f"x-{name}"] for name in ("kind", "publisher", "wakes", "key")
    ]


@pytest.fixture(scope="module")
def asyncapi() -> Any:
    return yaml.safe_load((ROOT / "schemas" / "asyncapi.yaml").read_text())


@pytest.fixture(scope="module")
def official() -> jsonschema.Draft7Validator:
    """The schema of AsyncAPI 3.0.0 itself, from the npm package @asyncapi/specs 6.11.1 (Apache-2.0)."""
    content = gzip.decompress((Path(__file__).parent / "asyncapi-3.0.0.json.gz").read_bytes())
    return jsonschema.Draft7Validator(json.loads(content))


def test_the_asyncapi_document_is_valid_by_the_official_schema(asyncapi: Any, official: jsonschema.Draft7Validator):
    assert [] == [error.message for error in official.iter_errors(asyncapi)]


@pytest.mark.parametrize("lost", ["action", "channel"])
def test_the_official_schema_notices_an_operation_without(
    lost: str, asyncapi: Any, official: jsonschema.Draft7Validator
):
    name, operation = next(iter(asyncapi["operations"].items()))
    wrong = {key: value for key, value in operation.items() if key != lost}
    assert list(official.iter_errors(asyncapi | {"operations": {name: wrong}}))


def test_every_reference_leads_somewhere(asyncapi: Any):
    for reference in _references(asyncapi):
        if reference.startswith("./"):
            assert (ROOT / "schemas" / reference).is_file()
            continue
        found = asyncapi
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def _references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [found for each in value for found in _references(each)]
    if not isinstance(value, dict):
        return []
    here = [value["$ref"]] if "$ref" in value else []
    return here + [found for each in value.values() for found in _references(each)]


@every_fact
def test_a_channel_is_the_subject_with_its_key_as_parameters(cls: type[Fact], asyncapi: Any):
    channel = asyncapi["channels"][cls.model_fields["type"].default]
    address = channel["address"]
    for name in channel["parameters"]:
        address = address.replace(f"{{{name}}}", f"<{name}>")
    fields = {name: f"<{name}>" for name in cls.key_fields}
    assert cls.model_construct(run="<run>", **fields).subject == address


@every_fact
def test_every_role_that_publishes_or_is_woken_has_an_operation(cls: type[Fact], asyncapi: Any):
    name = cls.model_fields["type"].default
    mine = {key for key, value in asyncapi["operations"].items() if value["channel"]["$ref"] == f"#/channels/{name}"}
    received = {f"{role}.receive.{name}" for role in cls.wakes}
    assert received <= mine
    sent = mine - received
    assert sent == {f"{cls.publisher}.send.{name}"} if cls.publisher != "*" else len(sent) > 4


def test_the_headers_are_those_of_the_envelope(asyncapi: Any):
    declared = {value for name, value in vars(envelope).items() if name.isupper() and value != envelope.CHUNKS}
    assert declared == set(asyncapi["components"]["schemas"]["Envelope"]["properties"])


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A source tree of its own, to take things away from."""
    shutil.copytree(ROOT / "schemas" / "json", tmp_path / "schemas" / "json")
    return tmp_path


def _change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"colour": {"type": "string"}}, "colour: the field is gone"),
        ({"verdict": {"enum": ["new", "duplicate", "similar"], "type": "string"}}, "'similar' is no longer a value"),
        ({"fingerprint": {"type": "integer"}}, "it was of type integer"),
    ],
)
def test_a_schema_that_would_lose_something_is_not_written(
    properties: Any, message: str, published: Path, capsys: pytest.CaptureFixture[str]
):
    path = published / "schemas" / "json" / "candidate.screened.json"
    before = json.loads(path.read_text())
    _change(path, properties=before["properties"] | properties)
    kept = path.read_text()
    assert 1 == generate.main(["--root", str(published)])
    assert message in capsys.readouterr().err
    assert kept == path.read_text()


def test_a_field_that_old_facts_lack_may_not_become_required(published: Path):
    path = published / "schemas" / "json" / "candidate.screened.json"
    _change(path, required=["run", "candidate", "verdict"])
    assert ["candidate.screened.fingerprint: the field is required now, and old facts lack it"] == generate.breaks(
        published
    )


def test_a_fact_may_not_vanish(published: Path):
    (published / "schemas" / "json" / "candidate.praised.json").write_text("{}")
    assert ["candidate.praised: the fact is gone"] == generate.breaks(published)


def test_a_new_optional_field_is_only_drift(published: Path, capsys: pytest.CaptureFixture[str]):
    path = published / "schemas" / "json" / "candidate.screened.json"
    before = json.loads(path.read_text())
    _change(path, properties={key: value for key, value in before["properties"].items() if key != "of"})
    assert [] == generate.breaks(published)
    assert 1 == generate.main(["--check", "--root", str(published)])
    assert "candidate.screened.json" in capsys.readouterr().err
    assert 0 == generate.main(["--root", str(published)])
    assert 0 == generate.main(["--check", "--root", str(published)])
