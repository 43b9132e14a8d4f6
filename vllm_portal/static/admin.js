// Select2 makes fields that have no name for who hears them, and a list with more in it than its items. It does so once
// the page is there, and again when something is chosen.
function name() {
  for (const select of document.querySelectorAll("select.select2-hidden-accessible")) {
    const words = select.closest(".field-line, .form-row")?.querySelector("label")?.textContent.trim();
    const made = select.nextElementSibling;
    for (const field of made?.querySelectorAll("[role=combobox], [role=searchbox], [role=textbox]") ?? []) {
      if (words) field.setAttribute("aria-label", words);
    }
    made?.querySelector("ul")?.setAttribute("role", "none");
  }
}

// Unfold writes the name of a chosen file into a field of text, and fails where a page has none.
document.addEventListener("change", (event) => {
  const file = event.target.closest("input[type=file]");
  if (file && !file.parentNode.parentNode.parentNode.querySelector("input[type=text]")) event.stopImmediatePropagation();
}, true);

new MutationObserver(name).observe(document.documentElement, { childList: true, subtree: true });
