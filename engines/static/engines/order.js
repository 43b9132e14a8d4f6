// The form of a start: while one types, whether it fits, and the same order for a terminal.

const form = document.getElementById("order");
const verdict = document.getElementById("verdict");
const NUMBERS = [
  "max_model_len", "tensor_parallel_size", "gpu_memory_utilization", "seed", "lease_hours", "sleep_minutes", "idle_minutes",
];
const WAIT_MS = 600;
let timer = 0;
let asked = null; // the question under way: a newer one ends it

function order() {
  const given = {};
  for (const [name, value] of new FormData(form)) {
    if (!value.trim() || name === "csrfmiddlewaretoken" || name === "recipe") continue;
    if (name === "adapters") given[name] = value.split("\n").filter((line) => line.trim()).map(adapter);
    else given[name] = name === "shared" ? true : NUMBERS.includes(name) ? Number(value) : value;
  }
  return given;
}

// A line such as sql=acme/llama-sql@v1. A folder has no revision, and may have an @ in its name.
function adapter(line) {
  const [name, ...rest] = line.split("=");
  const text = rest.join("=").trim();
  const at = text.startsWith("/") ? -1 : text.indexOf("@");
  const model = at < 0 ? text : text.slice(0, at);
  return { name: name.trim(), model, ...(at < 0 ? {} : { revision: text.slice(at + 1) }) };
}

// What the chosen recipe fixes, as long as nothing of it is changed; else it is an order like any other.
const FIXED = ["model", "revision", "max_model_len", "tensor_parallel_size", "seed", "tokenizer", "quantization",
  "gpu_memory_utilization", "adapters"];
const fixed = form.dataset.fixed ? JSON.parse(form.dataset.fixed) : null;
const isRecipe = () =>
  fixed && FIXED.every((name) => form.elements[name].value.trim() === String(fixed[name] ?? "").trim());

// Commands. A token is never written into them: it would end in the shell's history.
const quoted = (text) => (/^[\w./:@-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

function write() {
  const { hugging_face_hub_token: token, ...rest } = order();
  if (isRecipe()) for (const name of FIXED) delete rest[name];
  const { model = "facebook/opt-125m", shared, adapters = [], ...flags } = rest;
  const words = isRecipe() ? ["portal launch --recipe", quoted(form.dataset.recipe)] : ["portal launch", quoted(model)];
  for (const [name, value] of Object.entries(flags)) words.push(`--${name.replaceAll("_", "-")}`, quoted(String(value)));
  for (const { name, model, revision } of adapters)
    words.push("--adapter", quoted(`${name}=${model}${revision ? "@" + revision : ""}`));
  if (shared) words.push("--shared");
  if (token) words.push("--hf-token -");
  document.getElementById("as-portal").textContent = words.join(" ");
  const path = isRecipe() ? `recipes/${form.dataset.recipeId}/start` : "engines";
  const wanted = isRecipe() ? rest : { model, ...rest };
  const body = JSON.stringify({ ...wanted, ...(token ? { hugging_face_hub_token: "…" } : {}) });
  document.getElementById("as-curl").textContent =
    `curl ${form.dataset.portal}/api/v1/${path} -H "Authorization: Bearer $TOKEN" ` +
    `-H 'Content-Type: application/json' -d ${quoted(body)}`;
}

// Whether it fits. The answer is a piece of the server's own page, escaped by its templates.
async function ask() {
  asked?.abort();
  const mine = (asked = new AbortController());
  if (!form.elements.model.value.trim()) return;
  verdict.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(form.dataset.fit, { method: "POST", body: new FormData(form), signal: mine.signal });
    if (answer.status === 401) return location.reload();
    if (answer.ok) show(await answer.text());
  } catch {
    // A newer question, or the portal is away: what stands there stays.
  } finally {
    if (mine === asked) verdict.removeAttribute("aria-busy");
  }
}

function show(text) {
  verdict.replaceChildren(...new DOMParser().parseFromString(text, "text/html").body.childNodes);
  for (const button of verdict.querySelectorAll("[data-field]")) {
    const field = form.elements[button.dataset.field];
    if (!field) button.remove(); // such as the memory of the cache on a CPU, which an operator sets
    else button.addEventListener("click", () => set(field, button.dataset.value));
  }
}

function set(field, value) {
  field.value = value;
  form.dispatchEvent(new Event("input"));
  field.focus();
}

form.addEventListener("input", () => {
  write();
  clearTimeout(timer);
  timer = setTimeout(ask, WAIT_MS);
});
write();
if (form.elements.model.value) ask();
