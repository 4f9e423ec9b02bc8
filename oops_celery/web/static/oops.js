// Comfort alone: every page works without this.
for (const id of document.querySelectorAll("code.id")) {
  if (!navigator.clipboard) break;
  const button = document.createElement("button");
  button.className = "plain";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(id.textContent);
    button.textContent = "Copied";
  });
  id.after(" ", button);
}
const folded = document.querySelectorAll("details.library");
if (folded.length) {
  const button = document.createElement("button");
  button.className = "plain";
  button.textContent = "Unfold all frames";
  button.addEventListener("click", () => {
    const open = !folded[0].open;
    for (const one of folded) one.open = open;
    button.textContent = open ? "Fold the libraries' frames" : "Unfold all frames";
  });
  folded[0].closest("section").querySelector("h2").after(button);
}
