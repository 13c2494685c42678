"""Label and field selectors."""

import re
from collections.abc import Callable, Mapping

from tests.kubernetes.fake.resources import Resource
from tests.kubernetes.fake.status import Manifest, bad_request

Match = Callable[[Mapping[str, str]], bool]
_TERM = re.compile(
    r"\s*(?:"
    r"(?P<key>[\w./-]+)\s+(?P<set>in|notin)\s*\((?P<values>[^)]*)\)"
    r"|(?P<lhs>[\w./-]+)\s*(?P<op>==|=|!=)\s*(?P<rhs>[\w.-]*)"
    r"|(?P<absent>!)?\s*(?P<exists>[\w./-]+)"
    r")\s*(?:,|$)"
)
_FIELDS = {
    "Job": {"metadata.name", "metadata.namespace", "status.successful"},
    "Pod": {
        "metadata.name",
        "metadata.namespace",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
    },
}


def labels(text: str) -> Match:
    """Compile a label selector; the empty one matches everything.

    Raises:
        ApiError: 400, it cannot be parsed.
    """
    terms, at = [], 0
    while at < len(text):
        found = _TERM.match(text, at)
        if found is None or found.end() == at:
            raise bad_request(f"found '{_token(text[at:])}', expected: !, identifier, or 'end of string'")
        terms.append(_term(found))
        at = found.end()
    return lambda given: all(term(given) for term in terms)


def _token(rest: str) -> str:
    found = re.match(r"==|!=|\w+|.", rest.strip())
    return found.group() if found else ""


def _term(found: re.Match[str]) -> Match:
    if key := found["key"]:
        values = {value.strip() for value in found["values"].split(",")}
        return (
            (lambda given: given.get(key) in values)
            if found["set"] == "in"
            else lambda given: given.get(key) not in values
        )
    if lhs := found["lhs"]:
        same = found["op"] != "!="
        return lambda given: (given.get(lhs) == found["rhs"]) is same
    present = not found["absent"]
    return lambda given: (found["exists"] in given) is present


def fields(text: str, resource: Resource) -> Callable[[Manifest], bool]:
    """Compile a field selector.

    Raises:
        ApiError: 400, the resource does not index the field.
    """
    known = _FIELDS.get(resource.kind, {"metadata.name", "metadata.namespace"})
    wanted = []
    for part in filter(None, text.split(",")):
        key, same, value = re.split(r"(!=|==|=)", part, maxsplit=1)
        if key not in known:
            raise bad_request(f'field label "{key}" not supported for {resource.kind}')
        wanted.append((key.split("."), same != "!=", value))
    return lambda item: all((_at(item, path) == value) is same for path, same, value in wanted)


def _at(item: Manifest, path: list[str]) -> str:
    for part in path:
        item = item.get(part, {})
    return str(item) if item != {} else ""
