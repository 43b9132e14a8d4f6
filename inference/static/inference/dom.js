// The tree of `markdown.js` as elements. The only place where text of a model becomes part of a page: elements of the
// list below, attributes of the list below, all else by `textContent`.

import { highlight } from "./highlight.js";
import { address } from "./inline.js";

const TAGS = new Set(
  "p h1 h2 h3 h4 h5 h6 ul ol li blockquote hr table thead tbody tr th td em strong del code br a span".split(" "),
);
const CLASSES = new Set(["maths", "host", "middle", "right"]);
const HEADINGS = { h1: "h3", h2: "h4", h3: "h5", h4: "h6", h5: "h6", h6: "h6" }; // the page has h1 and h2 of its own

// An element with text or other elements in it. For the page itself, too.
export function element(tag, { text, children = [], ...attributes } = {}) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

export function render(nodes) {
  const made = document.createDocumentFragment();
  for (const node of nodes) made.append(rendered(node));
  return made;
}

function rendered(node) {
  if (typeof node === "string") return document.createTextNode(node);
  const [tag, attributes, ...inner] = node;
  if (tag === "code-block") return codeBlock(attributes.language, inner[0] ?? "");
  if (!TAGS.has(tag)) return render(inner);
  const made = document.createElement(HEADINGS[tag] ?? tag);
  if (tag === "a" && !leads(made, attributes.href)) return render(inner);
  if (CLASSES.has(attributes.class)) made.className = attributes.class;
  if (tag === "ol" && /^\d{1,9}$/.test(attributes.start ?? "")) made.setAttribute("start", attributes.start);
  made.append(render(inner));
  return tag === "table" ? element("div", { class: "wide", tabindex: "0", children: [made] }) : made;
}

function leads(link, given) {
  const href = address(given ?? "");
  if (!href) return false;
  link.href = href;
  link.title = href;
  link.target = "_blank";
  link.rel = "noopener noreferrer nofollow";
  return true;
}

function codeBlock(language, text) {
  const code = element("code", {
    children: highlight(text, language).map(([kind, piece]) => (kind ? element("span", { class: kind, text: piece }) : piece)),
  });
  const copy = element("button", { type: "button", class: "quiet copy", text: "Copy" });
  copy.addEventListener("click", () => copyText(text, copy));
  const bar = element("div", { class: "code-head", children: [element("span", { text: language || "text" }), copy] });
  return element("div", { class: "code", children: [bar, element("pre", { tabindex: "0", children: [code] })] });
}

// Copies, and says so on the button for a moment.
export async function copyText(text, button) {
  const said = button.dataset.said ?? button.textContent;
  button.dataset.said = said;
  button.textContent = (await copied(text)) ? "Copied" : "Not copied: select it by hand";
  setTimeout(() => (button.textContent = said), 2000);
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copiedByHand(text);
  }
}

// Where a page came by plain HTTP, browsers have no clipboard for it but this.
function copiedByHand(text) {
  const area = element("textarea", { class: "off-screen", readonly: "" });
  area.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}
