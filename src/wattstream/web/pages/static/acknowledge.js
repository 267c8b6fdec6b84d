// Alerts are acknowledged by the API: the engine refuses requests of other sites.
async function send(button) {
  button.disabled = true;
  const answer = await fetch(`/v1/alerts/${button.dataset.ack}/ack`, { method: "POST" });
  const body = await answer.json();
  const said = document.getElementById("said");
  if (!answer.ok) {
    button.disabled = false;
    if (said) said.textContent = body.error.message;
    return;
  }
  const row = button.closest("tr");
  const state = row.querySelector("[data-state]");
  const shown = document.createElement("span");
  shown.className = `state ${body.state === "resolved" ? "none" : "warn"}`;
  shown.textContent = body.state;
  state.replaceChildren(shown);
  button.remove();
  if (said) said.textContent = `Acknowledged: ${row.querySelector("th").textContent}, ${body.id}.`;
}
export function acknowledge() {
  for (const button of document.querySelectorAll("[data-ack]")) {
    button.addEventListener("click", () => send(button).catch(() => { button.disabled = false; }));
  }
}
