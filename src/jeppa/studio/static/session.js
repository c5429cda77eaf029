// What belongs to this visit and not to one part of the page: undo and redo of settings, the place in the queue with a way
// out of it, and favourites, which this browser keeps.
"use strict";
(() => {
  const say = (key, values = {}) =>
    ((window.studioWords || {})[key] || key).replace(/\{(\w+)\}/g, (_, name) => (name in values ? values[name] : ""));

  // ---- undo and redo: each tab has a list of settings and a place in it
  const MOST = 100;
  const TOGETHER = 700; // ms within which changes of one control are one step, as when a slider is dragged
  const pasts = {};

  function remember(tab, values) {
    const now = JSON.stringify(values);
    const past = pasts[tab] || (pasts[tab] = { list: [now], at: 0, moved: 0, time: 0 });
    if (past.list[past.at] === now) return;
    const before = JSON.parse(past.list[past.at]);
    const moved = values.findIndex((value, index) => JSON.stringify(value) !== JSON.stringify(before[index]));
    const time = performance.now();
    const same = past.at > 0 && moved === past.moved && time - past.time < TOGETHER;
    past.list.splice(same ? past.at : past.at + 1, Infinity, now);
    if (past.list.length > MOST) past.list.shift();
    Object.assign(past, { at: past.list.length - 1, moved, time });
  }

  function travel(tab, by, values) {
    remember(tab, values);
    const past = pasts[tab];
    past.at = Math.max(0, Math.min(past.list.length - 1, past.at + by));
    past.time = 0;
    return JSON.parse(past.list[past.at]);
  }

  // ---- the queue: gradio tells each event's place in a stream, which is read along here
  const waiting = new Map(); // event id -> { rank, since, session, fn, root }
  const finished = new Set(); // events that ended before their id was known
  const SLOW = 1200; // ms after which an event is worth a word
  let bar;

  function show() {
    if (!bar) {
      bar = document.createElement("div");
      bar.className = "jp-line-bar";
      bar.append(Object.assign(document.createElement("span"), { role: "status" }), document.createElement("button"));
      bar.lastChild.type = "button";
      bar.lastChild.textContent = say("line.cancel");
      bar.lastChild.addEventListener("click", cancel);
      bar.firstChild.setAttribute("aria-live", "polite");
      document.body.append(bar);
    }
    const ranks = [...waiting.values()].filter((one) => performance.now() - one.since >= SLOW).map((one) => one.rank);
    const place = ranks.length ? Math.max(...ranks) : -1;
    bar.hidden = place < 0;
    bar.dataset.place = place;
    const text = place < 0 ? "" : place === 0 ? say("line.working") : say("line.place", { place });
    if (bar.firstChild.textContent !== text) bar.firstChild.textContent = text;
  }

  function cancel() {
    for (const [event_id, one] of waiting) {
      const body = JSON.stringify({ session_hash: one.session, fn_index: one.fn, event_id });
      real(`${one.root}/gradio_api/cancel`, { method: "POST", body, headers: { "content-type": "application/json" } });
    }
    waiting.clear();
    show();
    document.dispatchEvent(new CustomEvent("studio-cancelled"));
  }

  function heard(message) {
    const one = waiting.get(message.event_id);
    if (!one && message.msg === "process_completed") finished.add(message.event_id);
    if (!one) return;
    if (message.msg === "estimation") one.rank = message.rank + 1;
    else if (message.msg === "process_starts") one.rank = 0;
    else if (message.msg === "process_completed") waiting.delete(message.event_id);
    else return;
    show();
  }

  async function follow(stream) {
    const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read().catch(() => ({ done: true }));
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:") || line.length > 20000 && !line.includes('"process_completed"')) continue;
        try { heard(JSON.parse(line.slice(5))); } catch { /* a line that was cut: the next one tells */ }
      }
    }
  }

  const real = window.fetch.bind(window);
  window.fetch = async (resource, options) => {
    const url = String(resource && resource.url ? resource.url : resource);
    const answer = await real(resource, options);
    if (url.includes("/queue/join") && answer.ok) {
      const asked = JSON.parse(options.body);
      answer.clone().json().then(({ event_id }) => {
        if (finished.delete(event_id)) return;
        const root = url.split("/gradio_api")[0];
        waiting.set(event_id, { rank: 0, since: performance.now(), session: asked.session_hash, fn: asked.fn_index, root });
        setTimeout(show, SLOW + 20);
      });
    } else if (url.includes("/queue/data") && answer.body) {
      const [theirs, ours] = answer.body.tee();
      follow(ours);
      return new Response(theirs, { status: answer.status, headers: answer.headers });
    }
    return answer;
  };

  // ---- tabs by arrow keys, as a list of tabs is expected to work
  document.addEventListener("keydown", (event) => {
    const tab = event.target.closest && event.target.closest("[role=tab]");
    const list = tab && tab.closest("[role=tablist]");
    if (!list) return;
    const tabs = [...list.querySelectorAll("[role=tab]")].filter((one) => one.offsetParent);
    const at = tabs.indexOf(tab);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = tabs[(to + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });

  // ---- favourites, in this browser alone
  const KEY = "jeppa-favourites";
  const favourites = {
    all: () => { try { return JSON.parse(localStorage.getItem(KEY)) || []; } catch { return []; } },
    has: (token) => favourites.all().some((one) => one.token === token),
    toggle: (item) => {
      const others = favourites.all().filter((one) => one.token !== item.token);
      favourites.write(others.length === favourites.all().length ? [...others, item] : others);
    },
    drop: (token) => favourites.write(favourites.all().filter((one) => one.token !== token)),
    write: (items) => localStorage.setItem(KEY, JSON.stringify(items.slice(-60))),
  };

  window.studioSession = { remember, travel, favourites };
})();
