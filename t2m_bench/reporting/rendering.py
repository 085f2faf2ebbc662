"""Fills the templates of this folder: one file each, with nothing to load from elsewhere."""

import base64
from collections.abc import Callable, Mapping
from typing import Any

import jinja2


def render(template: str, content: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]] | None = None) -> str:
    """Return a template filled with its content; what it names and the content lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("t2m_bench.reporting"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["data_uri"] = to_data_uri
    environment.filters |= dict(filters or {})
    return environment.get_template(template).render(content)


def to_data_uri(picture: bytes, kind: str = "png") -> str:
    """Return a picture as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
