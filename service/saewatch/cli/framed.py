"""The frame and the style of the pages that commands write: one file, no script, nothing from elsewhere."""

from __future__ import annotations

from html import escape

_STYLE = """
:root{--ink:#1d2330;--soft:#5d6678;--paper:#fff;--line:#d9dde5;--good:#17794a;--bad:#b3261e;
--own:#2557c7;--b1:#b26a00;--b2:#7a3fb0;--b3:#6b7280}
@media(prefers-color-scheme:dark){:root{--ink:#e7eaf0;--soft:#9aa4b8;--paper:#14171d;--line:#333a46;
--good:#5fd39a;--bad:#ff8a80;--own:#8ab4ff;--b1:#f0b35a;--b2:#cf9dff;--b3:#a3abb8}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}small{color:var(--soft)}
.verdict{border-left:.4rem solid var(--line);padding:.4rem 1rem;font-size:1.1rem}
.verdict.good{border-color:var(--good)}.verdict.bad{border-color:var(--bad)}
td.good{color:var(--good)}td.bad{color:var(--bad);font-weight:600}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}
th,td{text-align:left;padding:.2rem .7rem .2rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600}.plots{display:flex;flex-wrap:wrap;gap:1rem;margin-top:1rem}
.plot{margin:0;width:300px}figcaption{font-weight:600}
svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
svg .name{fill:var(--ink);font-size:12px}.ranges{max-width:44rem}.bar{fill:var(--own)}
.axis,.grid{stroke:var(--line)}.whisker{stroke:currentColor;stroke-width:2}circle{fill:currentColor}
.m-feature{color:var(--own)}.m-words{color:var(--b1)}.m-probe{color:var(--b2)}.m-random{color:var(--b3)}
.key span{margin-right:1.2rem}.key span:before{content:"\\25CF "}.read td,code{overflow-wrap:anywhere}
@media print{body{max-width:none}h2{break-after:avoid}}
"""


def framed(title: str, body: str, style: str = "") -> str:
    """A page around ``body``, with nothing from elsewhere; ``style`` is added to that of all pages."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>saewatch: {escape(title)}</title><style>{_STYLE}{style}</style></head>\n"
        f"<body>{body}\n</body></html>\n"
    )
