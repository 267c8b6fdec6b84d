import { count } from "./format.js";
import { listen, put } from "./live.js";
import { showSummary } from "./summary.js";

listen("/v1/stream?event=summary", { summary: showSummary });
function showVerdict({ mood, word, text }) {
  const [state, said] = document.querySelectorAll(".verdict span");
  if (state.textContent === word && said.textContent === text) return;
  state.className = `state ${mood}`;
  state.textContent = word;
  said.textContent = text;
}
async function showWork() {
  const answer = await fetch("/pages/ingest.json");
  const work = await answer.json();
  if (!answer.ok) {
    showVerdict({ mood: "bad", word: "failing", text: work.error.message });
    return;
  }
  put(document.querySelector('[data-work="queue"]'), count(work.queue));
  put(document.querySelector('[data-work="ack"]'), work.ack);
  showVerdict(work.verdict);
}
setInterval(() => { if (!document.hidden) showWork().catch(() => {}); }, 5000);
