"""`python -m evolvent_schemas.generate [--check]`: write the published contract next to the code that declares it."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evolvent_schemas import asyncapi, documents
from evolvent_schemas.catalog import FACTS

CONTRACT_VERSION = "0.1.0"
"""Of the contract: the first number changes never, because old logs replay for ever."""


def contract() -> dict[str, str]:
    """Build every document, by its path below the root of the source tree."""
    import yaml  # only whoever generates needs it

    files = {f"schemas/json/{name}.json": _json(documents.json_schema(cls)) for name, cls in FACTS.items()}
    asynchronous = yaml.safe_dump(asyncapi.document(CONTRACT_VERSION), sort_keys=False, allow_unicode=True, width=120)
    return files | {"schemas/asyncapi.yaml": asynchronous, "docs/facts.md": documents.catalogue()}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def drifted(root: Path) -> list[str]:
    """Name each document that is missing, differs from what the code declares, or describes no fact."""
    wanted = contract()
    found = [path for path, text in wanted.items() if _read(root / path) != text]
    stray = {str(path.relative_to(root)) for path in (root / "schemas" / "json").glob("*.json")} - set(wanted)
    return sorted({*found, *stray})


def breaks(root: Path) -> list[str]:
    """Say what the code took away from the published schemas, which may only grow."""
    wanted = contract()
    found = []
    for path in sorted((root / "schemas" / "json").glob("*.json")):
        name = str(path.relative_to(root))
        new = json.loads(wanted[name]) if name in wanted else None
        found += (
            [f"{path.stem}: the fact is gone"]
            if new is None
            else list(_lost(path.stem, json.loads(path.read_text()), new))
        )
    return found


def _lost(where: str, old: Any, new: Any) -> Iterator[str]:
    """Compare one schema and those within it: what an old fact holds, the new schema must still accept."""
    for name in old.get("properties", {}):
        if name not in new["properties"]:
            yield f"{where}.{name}: the field is gone"
        else:
            yield from _narrowed(f"{where}.{name}", old["properties"][name], new["properties"][name])
    for name in set(new.get("required", ())) - set(old.get("required", ())):
        yield f"{where}.{name}: the field is required now, and old facts lack it"
    for name, schema in old.get("$defs", {}).items():
        yield from _lost(name, schema, new.get("$defs", {}).get(name, {"properties": {}}))
    yield from (f"{where}: {key} has changed" for key in ("x-kind", "x-key") if old.get(key) != new.get(key))


def _narrowed(where: str, old: Any, new: Any) -> Iterator[str]:
    for value in set(old.get("enum", ())) - set(new.get("enum", old.get("enum", ()))):
        yield f"{where}: {value!r} is no longer a value"
    if "type" in old and old["type"] not in {new.get("type"), *(part.get("type") for part in new.get("anyOf", ()))}:
        yield f"{where}: it was of type {old['type']}"


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def write(root: Path) -> None:
    for path, text in contract().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Write the documents, or with `--check` say which differ. A change that would break old logs is refused.

    Returns:
        0 when all is well, 1 when something differs or would break.
    """
    parser = argparse.ArgumentParser(prog="python -m evolvent_schemas.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 and name what differs")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2], help="root of the source tree")
    options = parser.parse_args(arguments)
    if broken := breaks(options.root):
        return _complain("published schemas may only grow", broken)
    if not options.check:
        write(options.root)
    if different := drifted(options.root):
        return _complain("run `python -m evolvent_schemas.generate`; these differ from the code", different)
    return 0


def _complain(what: str, found: list[str]) -> int:
    sys.stderr.write(f"{what}:\n" + "".join(f"  {line}\n" for line in found))
    return 1


if __name__ == "__main__":
    sys.exit(main())
