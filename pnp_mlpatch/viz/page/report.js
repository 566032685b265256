"use strict";
(() => {
  const find = (name) => document.getElementById(name);
  const stage = find("stage"), after = find("after"), before = find("before");
  const table = Uint8Array.from(atob(stage.dataset.lut), (c) => c.charCodeAt(0));
  const number = (text) => Number.parseFloat(text);
  const short = (v) => Number(v.toPrecision(4)).toString();
  let shown = { low: number(stage.dataset.low), high: number(stage.dataset.high) };
  let images = [], span = shown, other = 1;

  // a grey picture holds 12 bits of a value, the high ones above the low ones; 0 is not known
  function decode(source) {
    const width = source.naturalWidth, rows = source.naturalHeight;
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = rows;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(source, 0, 0);
    const pixels = context.getImageData(0, 0, width, rows), data = pixels.data;
    const caption = source.dataset.caption;
    if (source.dataset.colour) return { width, height: rows, pixels, values: null, caption };
    const height = rows / 2, low = number(source.dataset.low), high = number(source.dataset.high);
    const values = new Float32Array(width * height);
    for (let k = 0; k < values.length; k++) {
      const code = data[4 * k] * 16 + data[4 * (k + values.length)];
      values[k] = code ? low + (high - low) * (code - 1) / 4094 : NaN;
    }
    return { width, height, values, caption, low, high };
  }

  function draw(canvas, image) {
    canvas.width = image.width;
    canvas.height = image.height;
    canvas.setAttribute("aria-label", image.caption);
    const context = canvas.getContext("2d");
    if (!image.values) return context.putImageData(image.pixels, 0, 0);
    const out = context.createImageData(image.width, image.height);
    const scale = 255 / (shown.high - shown.low);
    for (let k = 0; k < image.values.length; k++) {
      const v = image.values[k];
      const place = 3 * Math.min(255, Math.max(0, Math.round((v - shown.low) * scale)));
      for (let c = 0; c < 3; c++) {
        out.data[4 * k + c] = Number.isNaN(v) ? 190 : table[place + c];
      }
      out.data[4 * k + 3] = 255;
    }
    context.putImageData(out, 0, 0);
  }

  function redraw() {
    draw(after, images[0]);
    if (before) draw(before, images[other]);
  }

  function cut(percent) {
    const kept = Math.min(100, Math.max(0, percent));
    stage.style.setProperty("--cut", `${kept}%`);
    find("cut").value = kept;
  }

  function setWindow(low, high, from) {
    shown = { low, high: Math.max(high, low + 1e-9 * (span.high - span.low)) };
    const range = span.high - span.low, level = (low + high) / 2, width = high - low;
    if (from !== "sliders") {
      find("level").value = 1000 * (level - span.low) / range;
      find("width").value = 1000 * width / range;
    }
    find("level-shown").textContent = `${short(level)} ${stage.dataset.unit}`;
    find("width-shown").textContent = `${short(width)} ${stage.dataset.unit}`;
    redraw();
  }

  function fromSliders() {
    const range = span.high - span.low;
    const level = span.low + range * find("level").value / 1000;
    const half = range * find("width").value / 2000;
    setWindow(level - half, level + half, "sliders");
  }

  function place(event) {
    const box = stage.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  function read(event) {
    const [u, v] = place(event), first = images[0];
    const column = Math.floor(u * first.width), row = Math.floor(v * first.height);
    if (column < 0 || row < 0 || column >= first.width || row >= first.height) return;
    const said = images.map((image) => {
      const k = row * image.width + column;
      if (!image.values) {
        return `${image.caption} ${[0, 1, 2].map((c) => image.pixels.data[4 * k + c]).join(" ")}`;
      }
      return `${image.caption} ${Number.isNaN(image.values[k]) ? "not known" : short(image.values[k])}`;
    });
    find("readout").textContent =
      `row ${row} from the top, column ${column}: ${said.join("; ")} ${stage.dataset.unit}`;
  }

  function connect() {
    stage.addEventListener("pointermove", (event) => {
      read(event);
      if (before && event.buttons === 1) cut(100 * place(event)[0]);
    });
    if (before) {
      stage.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        cut(100 * place(event)[0]);
      });
      find("line").addEventListener("pointerdown", (event) => {
        find("line").setPointerCapture(event.pointerId);
      });
      find("cut").addEventListener("input", (event) => cut(number(event.target.value)));
      find("which").addEventListener("change", (event) => {
        other = Number(event.target.value);
        redraw();
      });
    }
    if (find("level")) {
      find("level").addEventListener("input", fromSliders);
      find("width").addEventListener("input", fromSliders);
      find("whole").addEventListener("click", () => setWindow(span.least, span.most));
      document.querySelectorAll(".preset").forEach((button) => button.addEventListener(
        "click", () => setWindow(number(button.dataset.low), number(button.dataset.high))));
    }
    document.querySelectorAll(".zoom").forEach((button) => button.addEventListener("click", () => {
      stage.style.setProperty("--zoom", button.dataset.times);
      document.querySelectorAll(".zoom").forEach((b) => b.classList.toggle("on", b === button));
    }));
  }

  async function start() {
    const sources = [...document.querySelectorAll("img.source")];
    await Promise.all(sources.map((source) => source.decode()));
    images = sources.map(decode);
    if (find("level")) {
      const least = Math.min(...images.map((i) => i.low)), most = Math.max(...images.map((i) => i.high));
      const low = Math.min(least, shown.low), high = Math.max(most, shown.high);
      span = { low, high, least, most };
      setWindow(shown.low, shown.high);
    } else {
      redraw();
    }
    connect();
    document.documentElement.dataset.ready = "yes";
  }
  start();
})();
