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

new MutationObserver(name).observe(document.documentElement, { childList: true, subtree: true });
