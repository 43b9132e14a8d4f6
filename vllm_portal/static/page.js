// What each page can do beyond its HTML: light or dark by a button, and buttons that copy what stands before them.

const root = document.documentElement;
const systemIsDark = window.matchMedia("(prefers-color-scheme: dark)");

// The choice is a cookie, so that the server writes it into the page: no flash, no inline script. Choosing what the
// system has is no choice: then the page follows the system again.
document.querySelector("[data-theme-switch]").addEventListener("click", () => {
  const system = systemIsDark.matches ? "dark" : "light";
  const chosen = (root.dataset.theme || system) === "dark" ? "light" : "dark";
  const follows = chosen === system;
  if (follows) delete root.dataset.theme;
  else root.dataset.theme = chosen;
  document.cookie = `theme=${follows ? "" : chosen}; path=/; max-age=${follows ? 0 : 31536000}; samesite=lax`;
});

// A button that offers a value for a field fills it in, as if it was typed.
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-fill]");
  if (!button) return;
  const field = document.getElementById(button.dataset.fill);
  field.value = button.dataset.with;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  const folded = field.closest("details");
  if (folded) folded.open = true;
  field.focus();
});

// A form that could not be sent in the background is sent by the browser, which says what is wrong.
document.addEventListener("htmx:sendError", ({ target }) => target.matches("form[action]") && target.submit());

// Whoever comes for something that is folded finds it open.
function unfold() {
  const folded = location.hash && document.getElementById(location.hash.slice(1))?.closest("details");
  if (folded) folded.open = true;
}
addEventListener("hashchange", unfold);
unfold();

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy-from]");
  if (!button) return;
  const words = button.textContent;
  try {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copyFrom).textContent);
    button.textContent = "Copied";
  } catch {
    // Without https scripts have no clipboard but this; where not even it, the person copies what is marked.
    window.getSelection().selectAllChildren(document.getElementById(button.dataset.copyFrom));
    button.textContent = document.execCommand("copy") ? "Copied" : "Marked: press Ctrl-C";
  }
  setTimeout(() => (button.textContent = words), 2000);
});
