"""Hypothesis strategies for every fact, derived from its fields alone, so that a new fact is covered at once."""

import types
import uuid
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as at
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel, StringConstraints
from pydantic.fields import FieldInfo

from evolvent_schemas import Fact
from evolvent_schemas.values import Prediction, Program

PATHS = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?\.py", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=4,
)
MADE: dict[type[BaseModel], SearchStrategy[Any]] = {
    Program: st.dictionaries(PATHS, TEXT, min_size=1, max_size=3).map(Program.of),
    Prediction: st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=3)
    .map(sorted)
    .map(lambda three: Prediction(low=three[0], expected=three[1], high=three[2])),
}
"""Values whose fields depend on one another."""


def of(model: type[BaseModel]) -> SearchStrategy[Any]:
    if model in MADE:
        return MADE[model]
    fields = {
        name: field(found)
        for name, found in model.model_fields.items()
        if not (issubclass(model, Fact) and name == "type")
    }
    return st.builds(model, **fields)


def field(found: FieldInfo) -> SearchStrategy[Any]:
    return value(found.annotation, list(found.metadata))


def value(annotation: Any, metadata: list[Any]) -> SearchStrategy[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return value(inner, metadata + [part for each in more for part in _constraints(each)])
    if origin in {Union, types.UnionType}:
        return st.one_of(*(value(part, metadata if part is not type(None) else []) for part in get_args(annotation)))
    if origin is Literal:
        return st.sampled_from(get_args(annotation))
    if origin is tuple:
        return st.lists(value(get_args(annotation)[0], []), min_size=_bound(metadata, at.MinLen, 0), max_size=3).map(
            tuple
        )
    if origin is dict:
        return st.dictionaries(*(value(part, []) for part in get_args(annotation)), max_size=3)
    return _plain(annotation, metadata)


def _constraints(each: Any) -> list[Any]:
    return list(each.metadata) if isinstance(each, FieldInfo) else [each]


def _plain(annotation: Any, metadata: list[Any]) -> SearchStrategy[Any]:
    if annotation is type(None):
        return st.none()
    if annotation is Any:
        return PLAIN
    if annotation is bool:
        return st.booleans()
    if annotation is uuid.UUID:
        return st.uuids()
    if annotation is str:
        return _text(metadata)
    if annotation in {int, float}:
        return _number(annotation, metadata)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return of(annotation)
    raise TypeError(f"no strategy for {annotation!r}; add one here")


def _text(metadata: list[Any]) -> SearchStrategy[str]:
    for each in metadata:
        if isinstance(each, StringConstraints) and each.pattern:
            return st.from_regex(each.pattern, fullmatch=True).filter(lambda text: not text.endswith("\n"))
        if isinstance(each, StringConstraints):
            return PATHS
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=_bound(metadata, at.MinLen, 0), max_size=20)


def _number(kind: type, metadata: list[Any]) -> SearchStrategy[Any]:
    low = _bound(metadata, at.Ge, _bound(metadata, at.Gt, -(2**53)))
    high = _bound(metadata, at.Le, 2**53)
    if kind is int:
        return st.integers(low + any(isinstance(each, at.Gt) for each in metadata), high)
    return st.floats(low, high, exclude_min=any(isinstance(each, at.Gt) for each in metadata))


def _bound(metadata: list[Any], kind: type, default: Any) -> Any:
    name = {at.Ge: "ge", at.Gt: "gt", at.Le: "le", at.MinLen: "min_length"}[kind]
    return next((getattr(each, name) for each in metadata if isinstance(each, kind)), default)
