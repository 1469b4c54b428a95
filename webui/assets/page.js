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

  for (const button of document.querySelectorAll("button[data-download]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const text = document.getElementById(button.dataset.download).textContent;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
      link.download = button.dataset.fileName;
      link.click();
      URL.revokeObjectURL(link.href);
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
      const version = document.getElementById("version");
      if (version) version.textContent = state.version || "–";
      showOperation(state);
      card.dispatchEvent(new Event("cache-state", { bubbles: true }));
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
        // Signed out, or the cache was deleted.
        if (response.redirected || response.status === 404) return location.assign("/caches");
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

  const figures = document.querySelector("[data-figures-url]");
  if (figures) refresh(figures);

  // Notices and figures, while the page is visible and when the cache's state changes.
  function refresh(figures) {
    let state = document.getElementById("state")?.dataset.state;

    async function load() {
      if (document.hidden) return;
      try {
        const response = await fetch(figures.dataset.figuresUrl);
        if (response.redirected || !response.ok) return;
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        for (const part of figures.querySelectorAll("[data-part]")) {
          const next = page.querySelector(`[data-part="${part.dataset.part}"]`);
          // What has the focus keeps it.
          if (!next || next.innerHTML === part.innerHTML || part.contains(document.activeElement)) continue;
          part.replaceChildren(...next.childNodes);
        }
      } catch {
        // Offline: keep the last figures.
      }
    }

    setInterval(load, Number(figures.dataset.seconds ?? 10) * 1000);
    document.addEventListener("visibilitychange", load);
    document.addEventListener("cache-state", (event) => {
      if (event.target.dataset.state === state) return;
      state = event.target.dataset.state;
      load();
    });
  }

  const firstUse = document.querySelector("[data-first-use-url]");
  if (firstUse) waitForUse(document.getElementById("first-use-state"), firstUse.dataset.firstUseUrl);

  // Until the new token is used, or the page is left.
  function waitForUse(line, url) {
    line.textContent = "Waiting for your first connection …";
    async function ask() {
      if (document.hidden) return;
      try {
        const response = await fetch(url, { headers: { accept: "application/json" } });
        // Signed out, or the token is gone.
        if (response.redirected || response.status === 404) return clearInterval(timer);
        if (!response.ok) return;
        const use = await response.json();
        if (use.state !== line.dataset.firstUse || use.state === "denied") {
          const text = use.fix ? `${use.text} ${use.fix}` : use.text;
          if (line.textContent !== text) line.textContent = text;
          line.dataset.firstUse = use.state;
          line.className = use.state === "connected" ? "banner success" : "";
        }
        if (use.state === "connected") clearInterval(timer);
      } catch {
        // Offline: ask again.
      }
    }
    const timer = setInterval(ask, 2000);
    ask();
  }

  // The language that was looked at last, on every page of a new token.
  const languages = [...document.querySelectorAll("input[name=language]")];
  try {
    const last = languages.find((input) => input.id === localStorage.getItem("language"));
    if (last) last.checked = true;
    for (const input of languages) input.addEventListener("change", () => localStorage.setItem("language", input.id));
  } catch {
    // The browser keeps nothing for this site.
  }

  // On a phone the tabs scroll: the current one is in view.
  const tab = document.querySelector(".cache-tabs [aria-current=page]");
  if (tab) tab.parentElement.scrollLeft = tab.offsetLeft - tab.parentElement.offsetLeft - 24;

  // What was asked of the cache: how far it is, and how it has ended.
  function showOperation(state) {
    const [box, ended] = ["operation", "operation-ended"].map((id) => document.getElementById(id));
    const current = state.operation;
    box.hidden = !current;
    if (current) {
      for (const [id, text] of [["operation-title", current.title], ["operation-message", current.message || ""]]) {
        const element = document.getElementById(id);
        if (element.textContent !== text) element.textContent = text;
      }
      document.getElementById("operation-progress").value = current.progress;
    }
    const requested = document.getElementById("requested");
    if (requested && !current) requested.remove();
    // A result stays until the page is left.
    if (!state.ended || state.ended.id === ended.dataset.id) return;
    ended.dataset.id = state.ended.id;
    ended.className = `banner ${state.ended.state === "failed" ? "error" : "success"}`;
    ended.textContent = state.ended.text;
    ended.hidden = false;
  }
})();
