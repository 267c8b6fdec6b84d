// Events of the engine, as long as the page is looked at; the browser connects again by itself.
const note = document.getElementById("connection");

/** Listen to some events by name; `path` may be a function of the moment. */
export function listen(path, handlers) {
  let source = null;
  let timer = null;
  const open = () => {
    close();
    source = new EventSource(typeof path === "function" ? path() : path);
    source.addEventListener("open", () => { note.hidden = true; });
    source.addEventListener("error", () => {
      note.hidden = false;
      // The browser gives up where the engine answered with an error, as while it starts.
      if (source?.readyState === EventSource.CLOSED) {
        timer = setTimeout(open, 2000);
        signInAgain();
      }
    });
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
    }
  };
  const close = () => { clearTimeout(timer); source?.close(); source = null; };
  const follow = () => (document.hidden ? close() : open());
  document.addEventListener("visibilitychange", follow);
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => { if (event.persisted) follow(); });
  follow();
  return open;
}

/** Load the page anew where the session is over: the engine then leads to the sign-in. */
async function signInAgain() {
  const asked = { headers: { Accept: "text/html" }, redirect: "manual" };
  const answer = await fetch(location.href, asked).catch(() => null);
  if (answer?.type === "opaqueredirect") location.reload();
}

/** Change the text of an element, and let the eye see that. */
export function put(element, text) {
  if (!element || element.textContent === text) return;
  element.textContent = text;
  element.classList.remove("changed");
  void element.offsetWidth;
  element.classList.add("changed");
}
