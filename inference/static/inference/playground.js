// The playground: wires the page's parts together.

import { Conversations } from "./conversations.js";
import { request } from "./chat.js";
import { copyText } from "./dom.js";
import { Pane } from "./pane.js";
import { Portal, UNREACHABLE } from "./portal.js";
import { LANGUAGES, snippet } from "./snippets.js";

const page = document.querySelector("[data-playground]");
const find = (name) => page.querySelector(`[data-${name}]`);
const [composer, prompt, settings, status, problem] = ["composer", "prompt", "settings", "status", "problem"].map(find);
const [send, stop, compare, code] = ["send", "stop", "compare", "code"].map(find);
const portal = new Portal(page.querySelector("[name=csrfmiddlewaretoken]").value);
const panes = [];

const side = new Conversations(find("conversations"), {
  open: (id) => attempt(() => panes[0].open(id)),
  gone: (id) => panes.filter((pane) => pane.conversation === id).forEach((pane) => pane.clear()),
});
addEventListener("htmx:sendError", () => (problem.textContent = UNREACHABLE));

function addPane() {
  const pane = new Pane(find("pane-template"), portal, {
    settings: given,
    tell: (text) => (status.textContent = text),
    changed: () => changed(pane),
  });
  const label = panes.length ? "Second engine" : "Engine";
  pane.select.setAttribute("aria-label", label);
  if (panes.length && pane.select.options.length > 1) {
    pane.select.selectedIndex = (panes[0].select.selectedIndex + 1) % pane.select.options.length;
  }
  find("panes").append(pane.node);
  if (panes.length) pane.copy(panes[0]);
  panes.push(pane);
}

function changed(pane) {
  const busy = panes.some((each) => each.busy);
  send.hidden = busy;
  stop.hidden = !busy;
  side.mark(panes.map((each) => each.conversation).filter(Boolean));
  if (!pane.busy && pane.conversation) side.refresh();
  follow();
}

// Keeps the end of the answer in sight of who reads there.
let following = true;
addEventListener("scroll", () => {
  const { scrollHeight, clientHeight, scrollTop } = document.documentElement;
  following = scrollHeight - clientHeight - scrollTop < 80;
});
function follow() {
  if (following) scrollTo({ top: document.documentElement.scrollHeight });
}
new ResizeObserver(follow).observe(find("panes"));

// The settings that were given, by the API's names; an empty one is left to the engine.
function given() {
  const fields = new FormData(settings);
  const found = {};
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    if (fields.get(name)) found[name] = Number(fields.get(name));
  }
  const stops = fields.get("stop").split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));
  if (stops.length) found.stop = stops;
  if (fields.get("system").trim()) found.system = fields.get("system");
  return found;
}

async function attempt(work) {
  problem.textContent = "";
  try {
    await work();
  } catch (error) {
    problem.textContent = error.message;
  }
}

async function ask() {
  const text = prompt.value;
  if (!text.trim() || panes.some((pane) => pane.busy)) return;
  if (!settings.checkValidity()) {
    find("options").open = true;
    settings.reportValidity();
    return;
  }
  problem.textContent = "";
  prompt.value = "";
  following = true;
  const answered = await Promise.all(panes.map((pane) => pane.ask(text)));
  if (!answered.includes(true) && !prompt.value) prompt.value = text; // to be sent again
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    ask();
  }
});
settings.addEventListener("submit", (event) => event.preventDefault());
stop.addEventListener("click", () => {
  panes.forEach((pane) => pane.stop());
  prompt.focus();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) panes.forEach((pane) => pane.stop());
});
find("new").addEventListener("click", () => {
  panes.forEach((pane) => pane.clear());
  panes.forEach((pane) => pane.changed());
  prompt.focus();
});
compare.addEventListener("click", () => {
  const both = compare.getAttribute("aria-pressed") !== "true";
  compare.setAttribute("aria-pressed", String(both));
  find("panes").classList.toggle("two", both);
  if (both) addPane();
  else {
    const [second] = panes.splice(1);
    second.stop();
    second.node.remove();
  }
  panes[0].changed();
});

function showCode() {
  const language = code.querySelector("[data-language]").value;
  const pane = panes[0];
  const shown = request(pane.engine, pane.turns, prompt.value || "Hello!", given());
  code.querySelector("[data-shown]").textContent = snippet(language, page.dataset.url, shown);
}
find("show-code").addEventListener("click", () => {
  if (!panes[0].engine) return;
  showCode();
  code.showModal();
});
code.querySelector("[data-language]").append(...Object.keys(LANGUAGES).map((name) => new Option(name)));
code.querySelector("[data-language]").addEventListener("change", showCode);
code.querySelector("[data-copy]").addEventListener("click", (event) =>
  copyText(code.querySelector("[data-shown]").textContent, event.currentTarget),
);

// What stands open beside it on a wide screen is folded away on a phone.
const wide = matchMedia("(min-width: 56rem)");
const fold = () => (find("conversations").open = wide.matches);
wide.addEventListener("change", fold);
fold();
addPane();
page.dataset.ready = "";
