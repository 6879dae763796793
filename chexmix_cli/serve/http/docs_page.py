"""The page of the interface, made of its OpenAPI description: one HTML file that asks nothing of the network."""

from __future__ import annotations

from typing import Any

from chexmix_cli.core.present.pages.render import render


def docs_page(openapi: dict[str, Any]) -> str:
    """Return the page.

    Args:
        openapi: the description, version 3.1.
    """
    schemas = openapi["components"]["schemas"]
    paths = [
        {
            "method": method.upper(),
            "path": path,
            "summary": operation.get("description") or operation["summary"],
            "fields": _fields(_body_schema(operation), schemas),
            "answers": [(status, answer["description"]) for status, answer in operation["responses"].items()],
        }
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    return render("server", title="chexmix serve http", about=openapi["info"]["description"], paths=paths)


def _body_schema(operation: dict[str, Any]) -> dict[str, Any] | None:
    body = operation.get("requestBody")
    found: dict[str, Any] | None = None if body is None else body["content"]["application/json"]["schema"]
    return found


def _fields(schema: dict[str, Any] | None, schemas: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, type and text of each field of a request, those of its parts behind a dot."""
    if schema is None:
        return []
    rows: list[tuple[str, str, str]] = []
    whole = schemas[_name(schema)]
    for name, one in whole["properties"].items():
        needed = "required. " if name in whole.get("required", []) else ""
        rows.append((name, _kind(one), f"{needed}{one.get('description', '')}".strip()))
        for part in _parts(one):
            rows += [(f"{name}.{inner}", kind, text) for inner, kind, text in _fields(part, schemas)]
    return rows


def _parts(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the named schemas inside one."""
    if "$ref" in schema:
        return [schema]
    inner = [*schema.get("anyOf", []), *schema.get("oneOf", [])]
    return [part for one in [*inner, *([schema["items"]] if "items" in schema else [])] for part in _parts(one)]


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return _name(schema)
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return " or ".join(f'"{value}"' for value in schema["enum"])
    options = [*schema.get("anyOf", []), *schema.get("oneOf", [])]
    if options:
        return " or ".join(dict.fromkeys(_kind(one) for one in options))
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {_kind(schema['items'])}"
    return str(schema.get("type", "anything"))


def _name(schema: dict[str, Any]) -> str:
    return str(schema["$ref"].rpartition("/")[2])
