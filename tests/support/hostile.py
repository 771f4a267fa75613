"""Texts that providers, gateways and tables may hold, and that nothing may interpret.

`HOST` stands for an address that nobody may ask for anything: a browser test sees every request to it.
"""

from __future__ import annotations

HOST = "evil.example"

MARKDOWN = {
    "link": f"[click](http://{HOST}/link)",
    "link with a title": f'[click](<http://{HOST}/link> "title")',
    "escaped link": rf"\[click](http://{HOST}/escaped) \\[click](http://{HOST}/escaped-twice)",
    "script link": "[click](javascript:alert(1)) [click](data:text/html;base64,PHNjcmlwdD4=)",
    "image": f"![see](http://{HOST}/image.png)",
    "escaped image": rf"!\[see](http://{HOST}/image.png) \![see](http://{HOST}/image.png)",
    "image in a link": f"[![see](http://{HOST}/a.png)](http://{HOST}/b)",
    "reference": f"[click][1] ![see][1] [1]\n\n[1]: http://{HOST}/reference",
    "footnote": f"text[^1]\n\n[^1]: http://{HOST}/footnote",
    "bare address": f"see http://{HOST}/bare, https://{HOST}, ftp://{HOST}/ and HTTP://{HOST}.",
    "bare name": f"see www.{HOST}/name or WWW.{HOST}",
    "e-mail": f"ask someone@{HOST}, mailto:someone@{HOST} or xmpp:someone@{HOST}/x",
    "escaped address": rf"http\://{HOST}/x http:\/\/{HOST}/x www\.{HOST} someone\@{HOST}",
    "address behind a hidden character": f"http\u200b://{HOST}/x www\u2060.{HOST} so\u00admeone@{HOST}",
    "address among marks": f"|http://{HOST}/a|`http://{HOST}/b`\\http://{HOST}/c_http://{HOST}/d*http://{HOST}/e",
    "address in Chinese": f"无法获取http://{HOST}/图片.png,请重试。联系someone@{HOST}或www.{HOST}。",
    "angle brackets": f"<http://{HOST}/angle> <someone@{HOST}>",
    "script": f"<script src=http://{HOST}/x.js></script><script>fetch('http://{HOST}/fetch')</script>",
    "image tag": f"<img src=//{HOST}/i.png onerror=fetch('//{HOST}/e')> <picture><source srcset=//{HOST}/s></picture>",
    "other tags": f"<svg><use href=//{HOST}/u></svg><video src=//{HOST}/v><base href=//{HOST}>",
    "prefetch": f"<link rel=prefetch href=//{HOST}/p><meta http-equiv=refresh content='0;url=//{HOST}/m'>",
    "frame and form": f"<iframe src=//{HOST}/f></iframe><form action=//{HOST}/a><input type=submit autofocus></form>",
    "style": f"<style>@import url(//{HOST}/s.css)</style><b style='background:url(//{HOST}/b)' onclick=alert(1)>b</b>",
    "comment": f"<!-- --><a href=//{HOST}/c>click</a> <![CDATA[x]]> <?php ?> <!DOCTYPE html>",
    "entities": f"&lt;img src=//{HOST}/x&gt; &#60;b&#62; &#x5b;x&#x5d;(http&colon;//{HOST}) &copy &amp;amp;",
    "code": f"`code` ``two`` ```\n[a](http://{HOST}/code)\n``` `",
    "diagram": f'```mermaid\ngraph TD\nA[x] --> B\nclick A href "http://{HOST}/m"\n```',
    "code fence": f"~~~html\n<img src=//{HOST}/t>\n~~~",
    "table": f"| a | b |\n| --- | --- |\n| [x](http://{HOST}/t) | \\| `|` \\\\| y |",
    "emphasis": "*a* **b** _c_ __d__ ~~e~~ ~f~ a_b_c snake_case_name ***g***",
    "heading": "# heading\n## another #\nsetext\n===\n---",
    "blocks": "> quote\n- list\n+ list\n* list\n1. one\n2) two\n- [ ] task\n    indented\n***",
    "block at the start": "> quote",
    "list at the start": "- item",
    "number at the start": "12. item",
    "heading at the start": "# heading",
    "underline": "===",
    "html block": f"<div>\n\n[x](http://{HOST}/block)\n\n</div>",
    "line ends": f"one\r\n\r\n[x](http://{HOST}/r)\n\u2028[x](http://{HOST}/s)\u2029\x85\x0b\x0c",
    "backslashes": "C:\\Users\\x\\ \\\\server\\share\\* ends with \\",
    "html of the page": "</td></tr></table></span><br><hr>",
}
"""By name: what Markdown, GitHub's extensions of it and HTML would make more of than text."""

CONTROLS = {
    "direction": "abc\u202egpj.exe\u202c \u2066x\u2069 \u200fy",
    "terminal": "\x1b[31mred\x1b[0m \x1b]8;;http://evil.example\x07click\x1b]8;;\x07 \x9b31m",
    "control": "a\x00b\x08c\x7fd\r\ne\tf",
    "lone surrogate": "a\ud800b\udfffc",
    "hidden": "a\u200bb\ufeffc\u2060d\U000e0041e",
}
"""By name: characters that change how the text around them is shown, or that databases and terminals choke on."""

TEXTS = MARKDOWN | CONTROLS
