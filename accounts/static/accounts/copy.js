// A button that copies what is shown once. Without a clipboard (a page that came by plain HTTP) it selects it.

const [shown, button] = [document.querySelector("[data-copied]"), document.querySelector("[data-copy]")];

button.hidden = false;
button.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(shown.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(shown);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
  }
});
