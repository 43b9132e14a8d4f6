"""How the playground reads Markdown: the tree that `inference/static/inference/markdown.js` makes, in node."""

import json
import shutil
import subprocess

import pytest

from vllm_portal.config import PROJECT_ROOT

SCRIPTS = PROJECT_ROOT / "inference" / "static" / "inference"
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

LINK = ["a", {"href": "https://x.example/a"}, "it", ["span", {"class": "host"}, " (x.example)"]]
CASES = [
    ("plain", [["p", {}, "plain"]]),
    ("a\n\nb", [["p", {}, "a"], ["p", {}, "b"]]),
    ("a\nb", [["p", {}, "a", ["br", {}], "b"]]),
    ("# *Hi* #", [["h1", {}, ["em", {}, "Hi"]]]),
    ("#hashtag", [["p", {}, "#hashtag"]]),
    ("---", [["hr", {}]]),
    ("**b** _e_ ~~d~~ ***x***", [["p", {}, ["strong", {}, "b"], " ", ["em", {}, "e"], " ", ["del", {}, "d"], " ",
     ["strong", {}, ["em", {}, "x"]]]]),
    ("snake_case_name 2 * 3 * 4", [["p", {}, "snake_case_name 2 * 3 * 4"]]),
    ("**open", [["p", {}, "**open"]]),
    ("`a*b*` ``c`d``", [["p", {}, ["code", {}, "a*b*"], " ", ["code", {}, "c`d"]]]),
    ("\\*not\\*", [["p", {}, "*not*"]]),
    ("<b>x</b> &lt;", [["p", {}, "<b>x</b> &lt;"]]),
    ("a<br>b", [["p", {}, "a", ["br", {}], "b"]]),
    ("[it](https://x.example/a)", [["p", {}, LINK]]),
    ("[it](https://x.example/a 'title')", [["p", {}, LINK]]),
    ("[it](javascript:x)", [["p", {}, "[it](javascript:x)"]]),
    ("[it](/admin/)", [["p", {}, "[it](/admin/)"]]),
    ("[it](https://u:p@x.example/)", [["p", {}, "[it](https://u:p@x.example/)"]]),
    ("see https://x.example/a.", [["p", {}, "see ", ["a", {"href": "https://x.example/a"}, "https://x.example/a"],
     "."]]),
    ("![it](https://x.example/a)", [["p", {}, [*LINK[:3], ["span", {"class": "host"}, " (image at x.example)"]]]]),
    ("[https://y.example/ x](https://x.example/a)", [["p", {}, ["a", {"href": "https://x.example/a"},
     "https://y.example/ x", ["span", {"class": "host"}, " (x.example)"]]]]),
    ("$a_1*b*c$ and \\(x_1*y*\\) for $5 or $6", [["p", {}, ["span", {"class": "maths"}, "$a_1*b*c$"], " and ",
     ["span", {"class": "maths"}, "\\(x_1*y*\\)"], " for $5 or $6"]]),
    ("```py x\nif a:\n    *b*\n```\nafter", [["code-block", {"language": "py"}, "if a:\n    *b*"], ["p", {}, "after"]]),
    ("```\nnever closed", [["code-block", {"language": ""}, "never closed"]]),
    ("````\n```\n````", [["code-block", {"language": ""}, "```"]]),
    ("> a\n> > b\nlazy", [["blockquote", {}, ["p", {}, "a"], ["blockquote", {}, ["p", {}, "b", ["br", {}], "lazy"]]]]),
    ("- a\n- b\n  - c", [["ul", {}, ["li", {}, "a"], ["li", {}, "b", ["ul", {}, ["li", {}, "c"]]]]]),
    ("3. a\n\n4. b", [["ol", {"start": "3"}, ["li", {}, "a"], ["li", {}, "b"]]]),
    ("1. a\n   ```\n   x\n   ```\n2. b", [["ol", {}, ["li", {}, "a", ["code-block", {"language": ""}, "x"]],
     ["li", {}, "b"]]]),
    ("|a|b|\n|-|:-:|\n|1\\|2|*3*|\n|4|", [["table", {}, ["thead", {}, ["tr", {}, ["th", {}, "a"],
     ["th", {"class": "middle"}, "b"]]], ["tbody", {}, ["tr", {}, ["td", {}, "1|2"],
     ["td", {"class": "middle"}, ["em", {}, "3"]]], ["tr", {}, ["td", {}, "4"], ["td", {"class": "middle"}]]]]]),
    ("a\x00b\x1b\u202ec\r\nd\ud800", [["p", {}, "a\u2400b\u241b\ufffdc", ["br", {}], "d\ufffd"]]),
]  # fmt: skip


def in_node(script: str, given: object) -> object:
    """What `script`, the body of a function of `given`, returns."""
    program = (
        f'import {{ parse }} from "{(SCRIPTS / "markdown.js").as_uri()}";\n'
        f'import {{ highlight }} from "{(SCRIPTS / "highlight.js").as_uri()}";\n'
        f'import {{ snippet }} from "{(SCRIPTS / "snippets.js").as_uri()}";\n'
        f'import {{ Measure }} from "{(SCRIPTS / "measure.js").as_uri()}";\n'
        "let text = ''; for await (const part of process.stdin) text += part;\n"
        f"const made = ((given) => {{ {script} }})(JSON.parse(text));\n"
        "process.stdout.write(JSON.stringify(made));\n"
    )
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", program],
        input=json.dumps(given), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_markdown_becomes_this_tree():
    trees = in_node("return given.map(parse);", [text for text, _ in CASES])
    assert [(text, tree) for (text, _), tree in zip(CASES, trees, strict=True)] == CASES


def test_a_long_line_has_no_markup():
    lines = ["*a* " * 6_000, "# " + "*a* " * 6_000, "> " * 15_000]
    assert in_node("return given.map(parse);", lines) == [[["p", {}, line]] for line in lines]


def test_what_lies_within_each_other_without_end_is_text():
    quotes, lists = "> " * 100 + "deep", "- " * 100 + "deep"
    for tree in in_node("return given.map(parse);", [quotes, lists]):
        assert "deep" in json.dumps(tree)
        assert json.dumps(tree).count("[") < 60


def test_coloured_code_is_the_same_text():
    code = 'def f(x):  # why\n    return "a\\"b" + \'c\' * 0x1F\n\t`t`/* c */ <a b="c"> -- d\n'
    names = ["python", "js", "rust", "bash", "sql", "html", "yaml", "css", "nothing", "__proto__", "constructor"]
    pieces = in_node("return given.names.map((name) => highlight(given.code, name));", {"code": code, "names": names})
    assert ["".join(text for _, text in each) for each in pieces] == [code] * len(names)
    assert ["comment", "# why"] in pieces[0]
    assert ["word", "return"] in pieces[0]
    assert ["string", '"a\\"b"'] in pieces[0]
    assert ["number", "0x1F"] in pieces[0]


def test_a_prompt_stays_one_argument_of_the_shell():
    content = "it's $HOME `id` \"q\" \\ \n$(id) ' ; echo"
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": content}]}
    shown = in_node('return snippet("curl", "http://p", { path: "/v1/chat/completions", body: given });', body)
    program = shown.replace("curl -N ", "printf '%s\\0' ", 1)
    words = subprocess.run(["sh", "-c", program], capture_output=True, text=True, timeout=10, check=True).stdout
    assert json.loads(words.split("\0")[-2]) == body


def test_a_prompt_stays_one_argument_in_python():
    content = 'it\'s "q" \\ \n {x} \u2028 \U0001f600'
    body = {"model": "m", "temperature": 0.5, "stop": ["\n"], "messages": [{"role": "user", "content": content}]}
    shown = in_node('return snippet("python", "http://p", { path: "/v1/chat/completions", body: given });', body)
    call = shown[shown.index("create(") + 6 : shown.index("\nfor chunk")]
    assert eval(f"dict{call}") == {**body, "stream": True}  # noqa: S307


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([], "m"),
        ([[100, {"text": "a"}], [600, {"text": "b", "usage": {"prompt_tokens": 1200, "completion_tokens": 11}}]],
         "m · 1,200 + 11 tokens · first after 100 ms · 20 tokens/s"),
        ([[2500, {"text": "a", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}], [2500, {"finish": "length"}]],
         "m · 1 + 1 tokens · first after 2.5 s · cut off at max_tokens or the context's end"),
        ([[100, {"thought": "a"}], [3100, {"text": "b", "usage": {"prompt_tokens": 1, "completion_tokens": 13}}]],
         "m · 1 + 13 tokens · first after 100 ms · 4.0 tokens/s"),
    ],
)  # fmt: skip
def test_an_answers_speed(events, words):
    script = """
      let clock = 0;
      const measure = new Measure(() => clock);
      for (const [at, piece] of given) { clock = at; measure.take(piece); }
      return measure.words("m");
    """
    assert in_node(script, events) == words
