// Wipe the original over a reconstruction: a range input on top gives mouse, touch and keyboard at once.
for (const picture of document.querySelectorAll(".picture")) {
  const original = picture.querySelector(".frame img");
  for (const frame of picture.querySelectorAll(".compare .frame")) {
    const above = original.cloneNode();
    above.alt = "";
    above.classList.add("above");
    const slider = document.createElement("input");
    Object.assign(slider, { type: "range", min: 0, max: 100, value: 0 });
    slider.setAttribute("aria-label", "Share of the original shown over: " + frame.querySelector("img").alt);
    const show = (percent) => frame.style.setProperty("--wipe", percent + "%");
    slider.addEventListener("input", () => show(slider.value));
    frame.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "mouse") return;
      const box = frame.getBoundingClientRect();
      show(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width)));
    });
    frame.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "mouse") return;
      slider.value = 0;
      show(0);
    });
    frame.append(above, slider);
  }
}
document.documentElement.classList.add("live");
