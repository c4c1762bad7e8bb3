"""The page on the Python client: its examples, run as they stand."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

from tests.web.site import Site, opened

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "python-client.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


async def run(example: str, names: dict[str, Any]) -> None:
    code = compile(example, "python-client.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    ran = eval(code, names)
    if inspect.iscoroutine(ran):
        await ran


async def test_the_examples() -> None:
    printed: list[str] = []
    names: dict[str, Any] = {"print": lambda *texts: printed.append(" ".join(map(str, texts)))}
    async with opened() as site:
        await play(site, names)
    assert len(EXAMPLES) == 5
    assert "True" in printed
    text = "\n".join(printed)
    assert "{'title': 'Write', 'status': 'open'} 1001" in printed
    assert "b'0.5'" in printed
    assert "somebody was faster: 1001" in printed
    assert "{'task:1': {'title': 'Write', 'status': 'open'}}" in printed
    assert "kind='warm'" in text


async def play(site: Site, names: dict[str, Any]) -> None:
    async with site.served() as port:
        for example in EXAMPLES:
            await run(example.replace("127.0.0.1:8080", f"127.0.0.1:{port}"), names)
