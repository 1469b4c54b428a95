// What a page does by itself where scripts run: follow the cache's state, copy, send a form only once.
// Everything works without it.
"use strict";
(() => {
  // The answer to a POST must not be asked for again by a reload.
  const here = document.body.dataset.here;
  if (here && location.pathname !== here) history.replaceState(null, "", here);

  for (const button of document.querySelectorAll("button[data-copy]")) {
    const from = document.getElementById(button.dataset.copy);
    const label = button.textContent;
    button.hidden = false;
    button.addEventListener("click", async () => {
      button.textContent = (await copy(from)) ? "Copied" : "Press Ctrl+C";
      setTimeout(() => { button.textContent = label; }, 1600);
    });
  }

  async function copy(from) {
    try {
      await navigator.clipboard.writeText(from.textContent);
      return true;
    } catch {
      // No clipboard without TLS: select it, and try the old way.
      getSelection().selectAllChildren(from);
      return document.execCommand("copy");
    }
  }

  for (const form of document.forms) {
    form.addEventListener("submit", (event) => {
      if (form.dataset.sent) event.preventDefault();
      form.dataset.sent = "yes";
    });
  }
  addEventListener("pageshow", () => {
    for (const form of document.forms) delete form.dataset.sent;
  });

  const card = document.querySelector("[data-live]");
  if (card) follow(card);

  function follow(card) {
    let source = null;
    let timer = 0;

    function show(view) {
      for (const element of [card, ...card.querySelectorAll("[data-state]")]) element.dataset.state = view.state;
      document.getElementById("state").textContent = view.title;
      document.getElementById("state-detail").textContent = view.detail;
      document.getElementById("version").textContent = view.version || "–";
    }

    function listen() {
      source = new EventSource(card.dataset.live);
      source.addEventListener("state", (event) => show(JSON.parse(event.data)));
      source.addEventListener("error", () => {
        // A stream that broke comes back by itself; one that was refused doesn't.
        if (source && source.readyState === EventSource.CLOSED) ask();
      });
    }

    async function ask() {
      try {
        const answer = await fetch(card.dataset.poll, { headers: { accept: "application/json" } });
        if (answer.redirected) return location.reload();
        if (answer.ok) show(await answer.json());
      } catch {
        // Away for now: the page keeps what it knows.
      }
      timer = setTimeout(ask, 5000);
    }

    function stop() {
      if (source) source.close();
      source = null;
      clearTimeout(timer);
    }

    // A page that nobody sees needs no stream.
    document.addEventListener("visibilitychange", () => {
      stop();
      if (!document.hidden) listen();
    });
    addEventListener("pagehide", stop);
    if (!document.hidden) listen();
  }
})();
