import { count } from "./format.js";
import { listen, put } from "./live.js";
import { showSummary } from "./summary.js";

listen("/v1/stream?event=summary", { summary: showSummary });
async function showWork() {
  const answer = await fetch("/pages/ingest.json");
  if (!answer.ok) return;
  const work = await answer.json();
  put(document.querySelector('[data-work="queue"]'), count(work.queue));
  put(document.querySelector('[data-work="ack"]'), work.ack);
  const [mood, text] = document.querySelectorAll(".verdict span");
  if (mood.textContent !== work.verdict.word || text.textContent !== work.verdict.text) {
    mood.className = `state ${work.verdict.mood}`;
    mood.textContent = work.verdict.word;
    text.textContent = work.verdict.text;
  }
}
setInterval(() => { if (!document.hidden) showWork().catch(() => {}); }, 5000);
