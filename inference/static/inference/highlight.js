// Code as pieces [kind, text], "" for what is not coloured: comments, strings, numbers and words of the language. Pure.
// No parser: it may be wrong about the odd line, never about the text, which is all there in the same order.

const LONG = 50_000; // characters; longer code is not coloured

const SLASHES = String.raw`\/\/[^\n]*|\/\*[^]*?(?:\*\/|$)`;
const HASH = String.raw`#[^\n]*`;
const QUOTED = String.raw`"(?:[^"\\\n]|\\[^])*"?|'(?:[^'\\\n]|\\[^])*'?`;
const NUMBER = String.raw`\b(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:[eE][-+]?\d+)?)\b`;
const WORD = String.raw`[A-Za-z_]\w*`;

const C_LIKE =
  "abstract any as async auto await bool boolean break byte case catch chan char class const constexpr continue default " +
  "defer delete do double else enum export extends extern false final finally float fn for foreach from func function go " +
  "goto if impl implements import in inline instanceof int interface internal let long loop map match mod module mut " +
  "namespace new nil null nullptr number operator override package private protected pub public range readonly return self " +
  "short signed sizeof static string struct super switch template this throw throws trait true try type typedef typename " +
  "typeof undefined union unsafe unsigned use using var virtual void volatile where while yield";
const PYTHON =
  "and as assert async await break case class continue def del elif else except False finally for from global if import in " +
  "is lambda match None nonlocal not or pass raise return self True try while with yield";
const SHELL =
  "alias cd case do done echo elif else esac eval exec exit export fi for function if in local read return select set shift " +
  "source sudo then trap unset until while";
const SQL =
  "add all alter and as asc begin between by case check column commit constraint create cross default delete desc distinct " +
  "drop else end exists false foreign from full group having if in index inner insert into is join key left like limit not " +
  "null offset on or order outer primary references returning right rollback select set table then true union unique " +
  "update using values view when where with";

const TRIPLE = String.raw`[rbfuRBFU]{0,2}(?:"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$))`;
const TEMPLATE = String.raw`${"`"}(?:[^${"`"}\\]|\\[^])*${"`"}?`;

const FAMILIES = [
  ["c cpp c++ cs csharp dart go java kotlin kt php rs rust scala swift", SLASHES, QUOTED, C_LIKE],
  ["js javascript jsx mjs ts tsx typescript json json5 jsonc", SLASHES, `${TEMPLATE}|${QUOTED}`, C_LIKE],
  ["css scss less", String.raw`\/\*[^]*?(?:\*\/|$)`, QUOTED, ""],
  ["py python python3 ipython", HASH, `${TRIPLE}|${QUOTED}`, PYTHON],
  ["sh bash zsh shell console dockerfile make makefile r ruby rb perl", HASH, QUOTED, SHELL],
  ["toml yaml yml ini properties", HASH, QUOTED, "true false null yes no"],
  ["sql postgresql sqlite mysql", String.raw`--[^\n]*|\/\*[^]*?(?:\*\/|$)`, QUOTED, SQL],
  ["html xml svg vue", String.raw`<!--[^]*?(?:-->|$)`, String.raw`"[^"\n]*"?|'[^'\n<]*'`, ""],
];

const LANGUAGES = new Map(FAMILIES.flatMap((family) => family[0].split(" ").map((name) => [name, grammar(family)])));

function grammar([names, comment, string, words]) {
  const pattern = new RegExp(`(${comment})|(${string})|(${NUMBER})|(${WORD})`, "g");
  return { pattern, words: new Set(words.split(" ")), anyCase: names.startsWith("sql") };
}

export function highlight(code, language) {
  const found = LANGUAGES.get(language.toLowerCase());
  if (!found || code.length > LONG) return [["", code]];
  const pieces = [];
  let from = 0;
  for (const match of code.matchAll(found.pattern)) {
    const kind = kindOf(match, found);
    if (!kind) continue;
    if (match.index > from) pieces.push(["", code.slice(from, match.index)]);
    pieces.push([kind, match[0]]);
    from = match.index + match[0].length;
  }
  if (from < code.length) pieces.push(["", code.slice(from)]);
  return pieces;
}

function kindOf([, comment, string, number, word], { words, anyCase }) {
  if (comment !== undefined) return "comment";
  if (string !== undefined) return "string";
  if (number !== undefined) return "number";
  return words.has(anyCase ? word.toLowerCase() : word) ? "word" : "";
}
