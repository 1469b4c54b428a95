// Progressive enhancement: live state of the cache, copy buttons, no form is sent twice. Pages work without it.
"use strict";
(() => {
  // The response to a POST: a reload must open the page instead of sending the form again.
  const path = document.body.dataset.pagePath;
  if (path && location.pathname !== path) history.replaceState(null, "", path);

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
      // Without TLS there is no clipboard API: select the text and use the old command.
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

  const card = document.querySelector("[data-events-url]");
  if (card) follow(card);

  function follow(card) {
    let source = null;
    let timer = 0;

    function show(state) {
      for (const element of [card, ...card.querySelectorAll("[data-state]")]) element.dataset.state = state.state;
      document.getElementById("state").textContent = state.title;
      document.getElementById("state-detail").textContent = state.detail;
      document.getElementById("version").textContent = state.version || "–";
    }

    function listen() {
      source = new EventSource(card.dataset.eventsUrl);
      source.addEventListener("state", (event) => show(JSON.parse(event.data)));
      source.addEventListener("error", () => {
        // The browser reopens a broken stream, but not one that was refused.
        if (source && source.readyState === EventSource.CLOSED) poll();
      });
    }

    async function poll() {
      try {
        const response = await fetch(card.dataset.stateUrl, { headers: { accept: "application/json" } });
        if (response.redirected) return location.reload();
        if (response.ok) show(await response.json());
      } catch {
        // Offline: keep the last state.
      }
      timer = setTimeout(poll, 5000);
    }

    function stop() {
      if (source) source.close();
      source = null;
      clearTimeout(timer);
    }

    // Hidden pages need no stream.
    document.addEventListener("visibilitychange", () => {
      stop();
      if (!document.hidden) listen();
    });
    addEventListener("pagehide", stop);
    if (!document.hidden) listen();
  }
})();
