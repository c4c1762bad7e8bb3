"""The documentation page: the OpenAPI document as one HTML page that loads nothing from anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "summary{cursor:pointer;padding:.3rem 0}code,pre{font-family:ui-monospace,monospace}"
    "pre{overflow:auto;background:#8881;padding:.5rem}td,th{text-align:left;padding:.1rem 1rem .1rem 0;vertical-align:top}"
    "b{display:inline-block;min-width:4.5rem}:root{color-scheme:light dark}"
)


def page(document: dict[str, Any]) -> str:
    """The page."""
    info = document["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    return "".join(
        (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>",
            f"<h1>{title}</h1><p>{escape(info.get('description', ''))}</p>",
            '<p>The same, for machines: <a href="openapi.json">openapi.json</a></p>',
            *_operations(document),
            "<h2>Schemas</h2>",
            *(
                f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>{_json(schema)}</details>'
                for name, schema in sorted(document.get("components", {}).get("schemas", {}).items())
            ),
        )
    )


def _operations(document: dict[str, Any]) -> Iterator[str]:
    tag = ""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation.get("tags", [""])[0] != tag:
                tag = operation["tags"][0]
                yield f"<h2>{escape(tag)}</h2>"
            yield f"<details><summary><b>{method.upper()}</b><code>{escape(path)}</code> "
            yield f"{escape(operation.get('summary', ''))}</summary>"
            yield from _parameters(operation)
            yield from _bodies("takes", operation.get("requestBody", {}))
            for status, response in operation.get("responses", {}).items():
                yield from _bodies(f"{status} {response.get('description', '')}", response)
            yield "</details>"


def _parameters(operation: dict[str, Any]) -> Iterator[str]:
    if operation.get("parameters"):
        yield "<table>"
        for parameter in operation["parameters"]:
            yield f"<tr><td><code>{escape(parameter['name'])}</code><td>{escape(parameter['in'])}"
            yield f"<td>{escape(parameter.get('description', ''))}"
        yield "</table>"


def _bodies(label: str, part: dict[str, Any]) -> Iterator[str]:
    contents = part.get("content", {})
    if not contents:
        if part:
            yield f"<p>{escape(label)}</p>"
        return
    for media, content in contents.items():
        name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
        link = f' <a href="#{escape(name)}">{escape(name)}</a>' if name else ""
        yield f"<p>{escape(label)}: <code>{escape(media)}</code>{link}</p>"


def _json(schema: object) -> str:
    return f"<pre>{escape(json.dumps(schema, indent=2))}</pre>"
