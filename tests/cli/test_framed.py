"""A page is what it is given, and nothing that it is given becomes markup of its head."""

from __future__ import annotations

from saewatch.cli.framed import framed


def test_a_page_takes_nothing_from_elsewhere() -> None:
    page = framed("a <b>", "<h1>x</h1>", ".own{color:red}")
    assert "<title>saewatch: a &lt;b&gt;</title>" in page
    assert "default-src 'none'" in page
    assert ".own{color:red}</style>" in page
    assert "<body><h1>x</h1>\n</body>" in page
    assert "<script" not in page
