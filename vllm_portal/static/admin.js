// Select2 makes fields that have no name for who hears them, and a list with more in it than its items.
window.addEventListener("load", () => {
  for (const select of document.querySelectorAll("select.select2-hidden-accessible")) {
    const name = select.closest(".field-line, .form-row")?.querySelector("label")?.textContent.trim();
    const made = select.nextElementSibling;
    for (const field of made?.querySelectorAll("[role=combobox], [role=searchbox], [role=textbox]") ?? []) {
      if (name) field.setAttribute("aria-label", name);
    }
    made?.querySelector("ul")?.setAttribute("role", "none");
  }
});
