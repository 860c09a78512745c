// What a page does by itself: enlarge a picture, drag before over after, read a chart, send dropped files.
(() => {
  const boxOf = () => {
    let box = document.getElementById("lightbox");
    if (!box) {
      box = document.createElement("dialog");
      box.id = "lightbox";
      box.append(document.createElement("img"), document.createElement("p"));
      box.addEventListener("click", () => box.close());
      document.body.append(box);
    }
    return box;
  };
  document.addEventListener("click", (event) => {
    const picture = event.target.closest && event.target.closest("img[data-full]");
    if (!picture) return;
    const box = boxOf();
    box.firstChild.src = picture.dataset.full;
    box.firstChild.alt = picture.alt;
    box.lastChild.textContent = picture.alt; // text, never markup
    box.showModal();
  });
  document.addEventListener("input", (event) => {
    const versus = event.target.closest && event.target.closest(".versus");
    if (versus && event.target.type === "range") versus.style.setProperty("--at", event.target.value + "%");
  });

  // The numbers under the pointer, read from what the chart was drawn from.
  const hint = () => {
    let box = document.getElementById("chart-hint");
    if (!box) {
      box = document.createElement("div");
      box.id = "chart-hint";
      document.body.append(box);
    }
    return box;
  };
  document.addEventListener("pointermove", (event) => {
    const plot = event.target.closest && event.target.closest("svg.chart-plot");
    const box = document.getElementById("chart-hint");
    if (!plot) {
      if (box) box.hidden = true;
      return;
    }
    const place = plot.getBoundingClientRect();
    const x0 = +plot.dataset.x0, x1 = +plot.dataset.x1;
    const at = x0 + ((event.clientX - place.left) / place.width) * (x1 - x0);
    const lines = [];
    let step = null;
    for (const line of plot.querySelectorAll("g.chart-line")) {
      const points = line.dataset.points.split(" ").filter(Boolean).map((pair) => pair.split(",").map(Number));
      if (!points.length) continue;
      const near = points.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best));
      if (step === null || Math.abs(near[0] - at) < Math.abs(step - at)) step = near[0];
      lines.push(`${line.dataset.name}: ${near[1]}`);
    }
    if (step === null) return;
    const shown = hint();
    shown.textContent = [`${plot.dataset.xLabel} ${step}`, ...lines].join("\n");
    shown.hidden = false;
    const right = event.clientX + 14 + shown.offsetWidth > innerWidth;
    shown.style.left = `${right ? event.clientX - 14 - shown.offsetWidth : event.clientX + 14}px`;
    shown.style.top = `${event.clientY + 14}px`;
  });

  // A page that is drawn anew closes what the server knows nothing of; what a person opened stays open.
  const opened = new Map();
  document.addEventListener("click", (event) => {
    const summary = event.target.closest && event.target.closest("details[data-keep] > summary");
    if (summary) opened.set(summary.parentElement.dataset.keep, !summary.parentElement.open);
  });
  new MutationObserver((changes) => {
    for (const { target } of changes)
      if (target.dataset && target.dataset.keep && opened.has(target.dataset.keep)) {
        const wanted = opened.get(target.dataset.keep);
        if (target.open !== wanted) target.open = wanted;
      }
  }).observe(document, { subtree: true, attributeFilter: ["open", "data-keep"] });

  // Files: one request each, a few at a time; the answers are verdicts, shown as text.
  const AT_ONCE = 4;
  const places = new WeakMap();
  const send = async (dataset, file) => {
    try {
      // with its place in a dropped folder, so that a/1.txt is not taken for the caption of b/1.jpg
      const name = encodeURIComponent(places.get(file) || file.webkitRelativePath || file.name);
      const answer = await fetch(`/upload/${encodeURIComponent(dataset)}?name=${name}`, {
        method: "POST",
        body: file,
        headers: { "content-type": "application/octet-stream" },
      });
      const told = await answer.json().catch(() => ({}));
      if (!answer.ok) return [{ name: file.name, accepted: false, reason: told.error || `the server said ${answer.status}` }];
      return told.verdicts || [];
    } catch {
      return [{ name: file.name, accepted: false, reason: "it did not arrive: the connection ended" }];
    }
  };
  const filesOf = async (items) => {
    const walk = async (entry) => {
      if (entry.isFile) {
        const file = await new Promise((ok, no) => entry.file(ok, no));
        places.set(file, entry.fullPath.replace(/^\/+/, ""));
        return [file];
      }
      const reader = entry.createReader();
      const found = [];
      for (;;) {
        const part = await new Promise((ok, no) => reader.readEntries(ok, no));
        if (!part.length) return found;
        for (const inner of part) found.push(...(await walk(inner)));
      }
    };
    const entries = [...items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
    return (await Promise.all(entries.map(walk))).flat();
  };
  // Captions first: a picture then finds its own beside it.
  const rank = (file) => (/\.(txt|jsonl|csv)$/i.test(file.name) ? 0 : 1);

  window.tunerDropzone = (element, done) => {
    const take = async (files) => {
      const dataset = element.querySelector(".drop")?.dataset.upload; // none until there is a set
      const said = element.querySelector(".drop-said");
      if (!dataset || !files.length) return;
      const waiting = [...files].sort((a, b) => rank(a) - rank(b));
      let finished = 0, kept = 0, refused = 0;
      const total = waiting.length;
      const tell = () => {
        said.textContent = finished < total
          ? `Looking at ${finished + 1} of ${total}…`
          : `${kept} taken` + (refused ? `, ${refused} refused: see below why` : "");
      };
      tell();
      const worker = async () => {
        for (let file = waiting.shift(); file; file = waiting.shift()) {
          for (const verdict of await send(dataset, file)) verdict.accepted ? kept++ : refused++;
          finished++;
          tell();
          if (finished % 20 === 0) done();
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE }, worker));
      tell();
      done();
    };
    element.addEventListener("change", (event) => {
      if (event.target.type !== "file") return;
      const files = [...event.target.files];
      event.target.value = "";
      event.stopPropagation();
      take(files);
    });
    for (const kind of ["dragenter", "dragover"])
      element.addEventListener(kind, (event) => { event.preventDefault(); element.querySelector(".drop")?.classList.add("over"); });
    for (const kind of ["dragleave", "drop"])
      element.addEventListener(kind, () => element.querySelector(".drop")?.classList.remove("over"));
    element.addEventListener("drop", async (event) => {
      event.preventDefault();
      const files = await filesOf(event.dataTransfer.items);
      take(files.length ? files : [...event.dataTransfer.files]);
    });
  };
})();
