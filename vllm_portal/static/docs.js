// Swagger UI is dark where its page says so: as was chosen in the portal, else as the system is. Run before the page is drawn.

const root = document.documentElement;
const systemIsDark = window.matchMedia("(prefers-color-scheme: dark)");

function draw() {
  root.classList.toggle("dark-mode", root.dataset.theme ? root.dataset.theme === "dark" : systemIsDark.matches);
}
systemIsDark.addEventListener("change", draw);
draw();

// What it leaves out for the keyboard and for who hears the page.
function complete() {
  for (const example of document.querySelectorAll("pre.microlight")) example.tabIndex = 0;
  for (const choice of document.querySelectorAll(".examples-select-element")) choice.setAttribute("aria-label", "Example");
}
new MutationObserver(complete).observe(root, { childList: true, subtree: true });
