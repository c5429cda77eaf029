// The parts of the page that gradio has no component for. Each mounts into a gr.HTML: `studio.mount(kind, element, props,
// trigger, watch)` draws props.value into it and, for those that a person uses, writes props.value and triggers "change".
"use strict";
(() => {
  const words = () => window.studioWords || {};
  const say = (key, values = {}) =>
    (words()[key] || key).replace(/\{(\w+)\}/g, (_, name) => (name in values ? values[name] : ""));
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  const shelf = (token) => (token.startsWith("/") ? token : `/shelf/${token}`);
  const number = (value, digits = 1) =>
    new Intl.NumberFormat(document.documentElement.lang, { minimumFractionDigits: digits, maximumFractionDigits: digits })
      .format(value);
  let counter = 0;
  const unique = (stem) => `${stem}-${++counter}`;

  function slider(label, attributes, shown = (value) => value) {
    const id = unique("range");
    const output = make("output", { for: id }, String(shown(attributes.value)));
    const input = make("input", { type: "range", id, "data-key": label, ...attributes, oninput: (event) => {
      output.textContent = shown(event.target.value);
      attributes.oninput(event);
    } });
    return make("div", { class: "jp-range" }, make("label", { for: id }, label), input, output);
  }

  // One line that tells what happens; screen readers speak it.
  function status(root, props, trigger, watch) {
    const line = root.querySelector("p");
    const draw = () => {
      const value = props.value || {};
      line.textContent = value.text || "";
      line.dataset.kind = value.kind || "";
    };
    draw();
    watch("value", draw);
    document.addEventListener("studio-cancelled", () => {
      if (line.offsetParent) line.textContent = say("line.cancelled");
    });
  }

  // Draws anew without taking the keyboard from whoever is on one of the parts: `key` finds the same part again.
  function redraw(box, ...children) {
    const held = box.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    box.replaceChildren(...children.filter(Boolean));
    if (held) box.querySelector(`[data-key="${held}"]`)?.focus({ preventScroll: true });
  }

  async function send(file) {
    const answer = await fetch("/pictures", { method: "POST", body: file, headers: { "X-Name": encodeURIComponent(file.name) } });
    const told = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(say(`refused.${told.code || answer.status}`, told) || told.detail);
    return told;
  }

  // A place to drop a picture, a button for the keyboard, and pictures to pick.
  function drop(root, props, trigger, watch) {
    const id = unique("file");
    const note = make("p", { class: "jp-note", role: "status", "aria-live": "polite" });
    const thumb = make("img", { class: "jp-thumb", alt: "", hidden: true });
    const choose = (value, text) => {
      note.textContent = text;
      note.dataset.kind = "";
      for (const one of picks.children) one.setAttribute("aria-pressed", String(one.title === value.builtin));
      props.value = value;
      trigger("change");
    };
    const take = async (file) => {
      if (!file) return;
      note.textContent = say("drop.sending");
      try {
        const told = await send(file);
        thumb.src = shelf(told.token); thumb.hidden = false;
        choose({ token: told.token, settings: told.settings }, say("drop.taken", { name: file.name, width: told.width, height: told.height }));
      } catch (error) {
        note.textContent = error instanceof TypeError ? say("refused.gone") : error.message;
        note.dataset.kind = "error";
      }
    };
    const input = make("input", { type: "file", id, accept: "image/*", class: "jp-file", onchange: (event) => {
      take(event.target.files[0]);
      event.target.value = "";
    } });
    const label = make("label", { for: id, class: "jp-drop" }, make("strong", {}, props.label_text || say("drop.label")),
      make("span", {}, say("drop.how")));
    const zone = make("div", { class: "jp-zone" }, input, label, thumb);
    for (const kind of ["dragenter", "dragover"]) zone.addEventListener(kind, (event) => { event.preventDefault(); zone.classList.add("over"); });
    for (const kind of ["dragleave", "drop"]) zone.addEventListener(kind, () => zone.classList.remove("over"));
    zone.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
    const picks = make("div", { class: "jp-picks", role: "group", "aria-label": say("drop.pick") });
    for (const name of props.photos || []) {
      picks.append(make("button", { type: "button", title: name, "aria-pressed": String(name === props.value?.builtin), onclick: () => {
        thumb.hidden = true;
        choose({ builtin: name }, say("drop.picked", { name }));
      } }, make("img", { src: `/look/${name}.jpg`, alt: say("drop.photo", { name }), width: 56, height: 56, loading: "lazy" })));
    }
    root.querySelector(".jp-box").replaceChildren(zone, ...(props.photos && props.photos.length ? [picks] : []), note);
  }

  // Original and another picture under one slider, sigma and coverage over both, zoom, and a readout.
  function viewer(root, props, trigger, watch) {
    const box = root.querySelector(".jp-box");
    const state = { split: 50, sigma: props.sigma ?? 0, zoom: 1, left: null, layer: null, covered: false, row: null, column: null };
    const draw = () => {
      const value = props.value;
      let asked = 0;
      if (!value || !value.original) {
        box.replaceChildren(make("p", { class: "jp-empty" }, say("viewer.empty")));
        return;
      }
      if (!value.layers.length) {
        box.replaceChildren(make("div", { class: "jp-frame" }, make("div", { class: "jp-stage" },
          make("img", { src: shelf(value.original), alt: say("viewer.original_alt"), class: "jp-early" }))),
          make("p", { class: "jp-note" }, say("viewer.loading")));
        return;
      }
      if (value.show) state.layer = value.show;
      if (!value.layers.some((layer) => layer.token === state.layer)) state.layer = value.layers[0].token;
      const layer = () => value.layers.find((one) => one.token === state.layer);
      const lefts = [{ token: value.original, label: say("viewer.original_alt") }, ...value.layers];
      if (!lefts.some((one) => one.token === state.left)) state.left = value.original;
      const left = () => lefts.find((one) => one.token === state.left);
      const image = (token, alt, extra = "") => make("img", { src: shelf(token), alt, class: extra, draggable: "false" });
      const top = image(state.layer, layer().label, "jp-top");
      const sigma = value.sigma && image(value.sigma, say("viewer.sigma_alt"), "jp-over");
      const covered = value.covered && image(value.covered, say("viewer.covered_alt"), "jp-over");
      const line = make("i", { class: "jp-line", "aria-hidden": "true" });
      const cross = make("i", { class: "jp-cross", "aria-hidden": "true", hidden: true });
      const under = image(state.left, left().label);
      const stage = make("div", { class: "jp-stage" }, under, top, ...[sigma, covered].filter(Boolean), line, cross);
      const frame = make("div", { class: "jp-frame", "data-key": "frame", tabindex: "0", role: "application", "aria-label": say("viewer.frame") }, stage);
      const readout = make("div", { class: "jp-readout", role: "status", "aria-live": "polite" }, say("viewer.readout"));
      const apply = () => {
        top.style.clipPath = `inset(0 0 0 ${state.split}%)`;
        line.style.left = `${state.split}%`;
        if (sigma) Object.assign(sigma.style, { opacity: state.sigma / 100, clipPath: top.style.clipPath });
        if (covered) covered.hidden = !state.covered;
        stage.style.width = `${state.zoom * 100}%`;
        stage.classList.toggle("pixels", state.zoom >= 3);
      };
      const tell = async () => {
        cross.hidden = false;
        cross.style.left = `${((state.column + 0.5) / value.width) * 100}%`;
        cross.style.top = `${((state.row + 0.5) / value.height) * 100}%`;
        if (!value.readout || asked) { asked = asked ? 2 : 0; if (asked) return; }
        if (!value.readout) return;
        asked = 1;
        const place = { row: state.row, column: state.column };
        const answer = await fetch(`${shelf(value.readout)}/pixel?row=${place.row}&column=${place.column}&level=${value.level}`).catch(() => null);
        const again = asked === 2;
        asked = 0;
        if (answer && answer.status === 200) readout.replaceChildren(table(place, await answer.json()));
        if (again) tell();
        else if (answer && answer.status === 204 && frame.isConnected) setTimeout(tell, 300); // the model is being loaded
      };
      const table = (place, told) => make("table", {},
        make("caption", {}, say("viewer.pixel", { column: place.column, row: place.row })),
        make("tr", {}, ...["", "viewer.value", "viewer.mean", ...(told.sigma ? ["σ", "viewer.interval"] : [])].map((key) =>
          make("th", { scope: "col" }, key && say(key, { level: Math.round(told.level * 100) })))),
        ...["viewer.red", "viewer.green", "viewer.blue"].map((key, index) => make("tr", {},
          make("th", { scope: "row" }, say(key)), make("td", {}, number(told.value[index], 0)), make("td", {}, number(told.mean[index])),
          ...(told.sigma ? [make("td", {}, number(told.sigma[index])), make("td", {}, `${number(told.low[index])} … ${number(told.high[index])}`)] : []))));
      const point = (event) => {
        const area = stage.getBoundingClientRect();
        const column = Math.floor(((event.clientX - area.left) / area.width) * value.width);
        const row = Math.floor(((event.clientY - area.top) / area.height) * value.height);
        if (column < 0 || row < 0 || column >= value.width || row >= value.height) return;
        Object.assign(state, { row, column });
        tell();
      };
      stage.addEventListener("pointermove", point);
      stage.addEventListener("click", point);
      frame.addEventListener("keydown", (event) => {
        const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
        if (!move) return;
        event.preventDefault();
        const by = event.shiftKey ? 16 : 1;
        const within = (at, size) => Math.max(0, Math.min(size - 1, at));
        state.row = within((state.row ?? value.height >> 1) + move[0] * by, value.height);
        state.column = within((state.column ?? value.width >> 1) + move[1] * by, value.width);
        tell();
      });
      const choose = (label, key, options, changed) => {
        const id = unique("choice");
        const list = make("select", { id, "data-key": key, onchange: (event) => { state[key] = event.target.value; changed(); } },
          ...options.map((one) => make("option", { value: one.token, selected: one.token === state[key] }, one.label)));
        return make("div", { class: "jp-range" }, make("label", { for: id }, label), list);
      };
      const onLeft = choose(say("viewer.left"), "left", lefts, () => { under.src = shelf(state.left); under.alt = left().label; });
      const onRight = choose(say("viewer.layer"), "layer", value.layers, () => {
        top.src = shelf(state.layer);
        top.alt = layer().label;
        save.href = shelf(state.layer);
      });
      const save = make("a", { href: shelf(state.layer), download: true, class: "jp-link" }, say("viewer.save"));
      onRight.append(save);
      const percent = (shown) => `${shown} %`;
      const controls = make("div", { class: "jp-controls" },
        slider(say("viewer.split"), { min: 0, max: 100, value: state.split, oninput: (event) => { state.split = +event.target.value; apply(); } }, percent),
        slider(say("viewer.zoom"), { min: 1, max: 12, step: 0.5, value: state.zoom, oninput: (event) => { state.zoom = +event.target.value; apply(); } }, (shown) => `${number(shown, 1)}×`),
        onLeft, onRight,
        sigma ? slider(say("viewer.opacity"), { min: 0, max: 100, value: state.sigma, oninput: (event) => { state.sigma = +event.target.value; apply(); } }, percent) : null,
        sigma ? legend(value.scale || 32, value.sigma) : null,
        covered ? make("label", { class: "jp-check jp-wide" }, make("input", { type: "checkbox", "data-key": "covered", checked: state.covered, onchange: (event) => { state.covered = event.target.checked; apply(); } }), make("span", {}, value.coverage)) : null);
      apply();
      redraw(box, frame, controls, value.readout && readout);
      if (state.row !== null && state.row < value.height && state.column < value.width) tell();
    };
    draw();
    watch("value", draw);
  }

  function legend(scale, token) {
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => make("span", {}, number(scale * share, 0) + (share === 1 ? "+" : "")));
    return make("figure", { class: "jp-legend" }, make("figcaption", {}, say("viewer.legend")), make("div", { class: "jp-magma", "aria-hidden": "true" }),
      make("div", { class: "jp-ticks" }, ...ticks), token ? make("a", { href: shelf(token), download: true, class: "jp-link" }, say("viewer.save_sigma")) : null);
  }

  // Pictures as they form, each beside its sigma map.
  function live(root, props, trigger, watch) {
    const box = root.querySelector(".jp-box");
    const draw = () => {
      const value = props.value;
      if (!value || !value.pictures || !value.pictures.length) { box.replaceChildren(); return; }
      const drawn = value.pictures.map((one) => [
        { src: shelf(one.estimate), alt: say("live.estimate", { seed: one.seed }) },
        ...(one.sigma ? [{ src: shelf(one.sigma), alt: say("live.sigma", { seed: one.seed }) }] : [])]);
      const there = [...box.querySelectorAll(".jp-live img")];
      if (there.length === drawn.flat().length) {
        // A picture stays until the next one can be shown in its place, so that nothing flickers.
        drawn.flat().forEach((image, at) => make("img", image).decode().then(() => Object.assign(there[at], image), () => {}));
        box.querySelector("progress").value = value.step;
        return;
      }
      const cells = drawn.map((images) => make("figure", {}, ...images.map((image) => make("img", image))));
      box.replaceChildren(make("progress", { max: value.total, value: value.step, "aria-label": say("live.progress") }),
        make("div", { class: "jp-live", "data-count": cells.length > 1 ? "many" : "one" }, ...cells), value.pictures[0].sigma ? legend(value.scale) : "");
    };
    draw();
    watch("value", draw);
  }

  // Finished pictures, with favourites that stay in this browser.
  function gallery(root, props, trigger, watch) {
    const box = root.querySelector(".jp-box");
    const favourites = window.studioSession.favourites;
    const draw = () => {
      const items = (props.value && props.value.items) || [];
      const card = (item) => {
        const star = make("button", { type: "button", class: "jp-star", "data-key": item.token, "aria-pressed": String(favourites.has(item.token)), "aria-label": say("gallery.favourite", { label: item.label }), onclick: () => {
          favourites.toggle(item);
          draw();
        } }, favourites.has(item.token) ? "★" : "☆");
        return make("figure", { class: item.rejected ? "jp-card rejected" : "jp-card" },
          make("a", { href: shelf(item.token), target: "_blank", rel: "noopener" }, make("img", { src: shelf(item.token), alt: item.alt || item.label, onerror: () => forget(item) })),
          make("figcaption", {}, make("span", {}, item.label), item.note ? make("small", {}, item.note) : null,
            make("span", { class: "jp-actions" }, star, make("a", { href: shelf(item.token), download: true, class: "jp-link", "aria-label": say("gallery.save_label", { label: item.label }) }, say("gallery.save")))));
      };
      const forget = (item) => { if (favourites.has(item.token)) { favourites.drop(item.token); draw(); } };
      const rest = props.keeps ? favourites.all().filter((item) => !items.some((one) => one.token === item.token)) : [];
      if (!items.length && !rest.length) { box.replaceChildren(...(props.hint ? [make("p", { class: "jp-empty" }, props.hint)] : [])); return; }
      const rows = (props.value && props.value.columns) || 0;
      const grid = make("div", { class: "jp-gallery", "data-count": rows ? "set" : [1, 2, 4].includes(items.length) ? "few" : "many", style: rows ? `grid-template-columns: repeat(${rows}, minmax(88px, 1fr))` : null }, ...items.map(card));
      redraw(box, items.length ? grid : props.hint && make("p", { class: "jp-empty" }, props.hint), ...(rest.length ? [make("h3", {}, say("gallery.kept")), make("div", { class: "jp-gallery" }, ...rest.map(card))] : []));
    };
    draw();
    watch("value", draw);
  }

  // A brush over a picture; the mask goes to the server as a black and white PNG.
  function brush(root, props, trigger, watch) {
    const box = root.querySelector(".jp-box");
    const size = { share: 0.08 };
    let erase = false;
    const draw = () => {
      const value = props.source;
      if (!value || !value.token) { box.replaceChildren(make("p", { class: "jp-empty" }, say("brush.empty"))); return; }
      const shrink = Math.min(1, 2048 / Math.max(value.width, value.height));
      const mask = make("canvas", { width: Math.round(value.width * shrink), height: Math.round(value.height * shrink), class: "jp-mask", tabindex: "0", role: "application", "aria-label": say("brush.canvas") });
      const pen = mask.getContext("2d");
      const place = { x: mask.width / 2, y: mask.height / 2 };
      const ring = make("i", { class: "jp-ring", "aria-hidden": "true" });
      const width = () => size.share * Math.min(mask.width, mask.height);
      const show = () => {
        ring.style.left = `${(place.x / mask.width) * 100}%`;
        ring.style.top = `${(place.y / mask.height) * 100}%`;
        ring.style.width = `${(width() / mask.width) * 100}%`;
      };
      const dab = (from) => {
        pen.globalCompositeOperation = erase ? "destination-out" : "source-over";
        Object.assign(pen, { strokeStyle: "#fd9a6a", lineWidth: width(), lineCap: "round", lineJoin: "round" });
        pen.beginPath();
        pen.moveTo(from.x, from.y);
        pen.lineTo(place.x + 0.01, place.y);
        pen.stroke();
      };
      let version = 0;
      const hand = async () => {
        const mine = ++version;
        const solid = make("canvas", { width: mask.width, height: mask.height });
        const ink = solid.getContext("2d");
        const from = pen.getImageData(0, 0, mask.width, mask.height);
        for (let at = 0; at < from.data.length; at += 4) {
          const level = from.data[at + 3] > 127 ? 255 : 0;
          from.data.set([level, level, level, 255], at);
        }
        ink.putImageData(from, 0, 0);
        const blob = await new Promise((done) => solid.toBlob(done, "image/png"));
        const told = await send(new File([blob], "mask.png")).catch(() => null);
        if (!told || mine !== version) return;
        props.value = { token: told.token };
        box.dataset.ready = String(version);
        trigger("change");
      };
      const at = (event) => {
        const area = mask.getBoundingClientRect();
        const before = { ...place };
        place.x = ((event.clientX - area.left) / area.width) * mask.width;
        place.y = ((event.clientY - area.top) / area.height) * mask.height;
        show();
        return before;
      };
      let down = false;
      mask.addEventListener("pointerdown", (event) => { down = true; mask.setPointerCapture(event.pointerId); at(event); dab(place); });
      mask.addEventListener("pointermove", (event) => { const before = at(event); if (down) dab(before); });
      mask.addEventListener("pointerup", () => { down = false; hand(); });
      mask.addEventListener("keydown", (event) => {
        const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
        if (move) {
          place.x = Math.max(0, Math.min(mask.width, place.x + (move[0] * width()) / (event.shiftKey ? 1 : 4)));
          place.y = Math.max(0, Math.min(mask.height, place.y + (move[1] * width()) / (event.shiftKey ? 1 : 4)));
          show();
        } else if (event.key === " " || event.key === "Enter") { dab(place); hand(); } else return;
        event.preventDefault();
      });
      const button = (key, act) => make("button", { type: "button", class: "jp-button", onclick: act }, say(key));
      const fill = (full) => { pen.globalCompositeOperation = "source-over"; pen.clearRect(0, 0, mask.width, mask.height); if (full) { pen.fillStyle = "#fd9a6a"; pen.fillRect(0, 0, mask.width, mask.height); } hand(); };
      const eraser = make("label", { class: "jp-check" }, make("input", { type: "checkbox", onchange: (event) => { erase = event.target.checked; } }), make("span", {}, say("brush.erase")));
      show();
      props.value = null;
      box.replaceChildren(make("div", { class: "jp-frame" }, make("div", { class: "jp-stage" }, make("img", { src: shelf(value.token), alt: say("brush.picture") }), mask, ring)),
        make("div", { class: "jp-controls" }, slider(say("brush.size"), { min: 1, max: 50, value: size.share * 100, oninput: (event) => { size.share = event.target.value / 100; show(); } }, (shown) => `${shown} %`),
          make("div", { class: "jp-row" }, eraser, button("brush.all", () => fill(true)), button("brush.clear", () => fill(false)))));
    };
    draw();
    watch("source", draw);
  }

  const kinds = { status, drop, viewer, live, gallery, brush };
  window.studio = { mount: (kind, element, props, trigger, watch) => kinds[kind](element, props, trigger, watch) };
})();
