import { acknowledge } from "./acknowledge.js";
import "./format.js";
import { listen } from "./live.js";

const form = document.getElementById("filters");
form.addEventListener("change", () => form.requestSubmit());
acknowledge();
let known = null;
listen("/v1/stream?event=summary", {
  summary: ({ openAlerts }) => {
    if (known !== null && openAlerts > known) {
      document.getElementById("said").textContent = "There are new alerts: load the page again to see them.";
    }
    known = openAlerts;
  },
});
