// What a page does by itself: enlarge a picture, drag before over after, read a chart, send dropped files.
(() => {
  const PICTURE = "img[data-full]";
  const near = (event, what) => event.target.closest && event.target.closest(what);
  const boxOf = () => {
    let box = document.getElementById("lightbox");
    if (!box) {
      box = document.createElement("dialog");
      box.id = "lightbox";
      const close = document.createElement("button"); // the first to get the focus; Escape closes as well
      close.textContent = "✕";
      close.setAttribute("aria-label", "Close");
      box.append(close, document.createElement("img"), document.createElement("p"));
      box.addEventListener("click", () => box.close());
      document.body.append(box);
    }
    return box;
  };
  const enlarge = (picture) => {
    const box = boxOf();
    Object.assign(box.querySelector("img"), { src: picture.dataset.full, alt: picture.alt });
    box.querySelector("p").textContent = picture.alt; // text, never markup
    box.setAttribute("aria-label", picture.alt || "Picture");
    picture.focus(); // where the focus goes back to
    box.showModal();
  };
  document.addEventListener("click", (event) => {
    const picture = near(event, PICTURE);
    if (picture) enlarge(picture);
  });
  document.addEventListener("keydown", (event) => {
    const picture = near(event, PICTURE);
    if (!picture || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    enlarge(picture);
  });
  // Whatever draws a picture that can be enlarged, and however often: it is reached by keys, too.
  const reachable = (picture) => {
    if (picture.tabIndex !== 0) picture.tabIndex = 0;
    if (picture.getAttribute("role") !== "button") picture.setAttribute("role", "button");
    if (picture.ariaLabel !== `Enlarge ${picture.alt}`) picture.ariaLabel = `Enlarge ${picture.alt}`;
  };
  new MutationObserver((changes) => {
    for (const { type, target, addedNodes } of changes)
      if (type === "attributes") {
        if (target.matches(PICTURE)) reachable(target);
      } else
        for (const added of addedNodes)
          if (added.nodeType === Node.ELEMENT_NODE) {
            if (added.matches(PICTURE)) reachable(added);
            added.querySelectorAll(PICTURE).forEach(reachable);
          }
  }).observe(document, { subtree: true, childList: true, attributeFilter: ["alt", "tabindex", "role"] });

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
  const LARGE_BYTES = 8e6; // from here on it is told how much has gone
  const places = new WeakMap();
  const nameOf = (file) => places.get(file) || file.webkitRelativePath || file.name;
  // What became of one file: the server's verdicts, or a reason that the server knows nothing of.
  const send = (dataset, file, told) =>
    new Promise((ok) => {
      // with its place in a dropped folder, so that a/1.txt is not taken for the caption of b/1.jpg
      const asked = new XMLHttpRequest(); // fetch does not tell how much has gone
      asked.open("POST", `/upload/${encodeURIComponent(dataset)}?name=${encodeURIComponent(nameOf(file))}`);
      asked.setRequestHeader("content-type", "application/octet-stream");
      if (file.size > LARGE_BYTES) asked.upload.onprogress = (event) => told(event.loaded / file.size);
      asked.onload = () => {
        const kind = asked.getResponseHeader("content-type") || "";
        const answer = kind.startsWith("application/json") ? JSON.parse(asked.responseText) : {};
        if (answer.verdicts?.length) return ok({ verdicts: answer.verdicts });
        const said = answer.error || (kind.startsWith("text/plain") && asked.responseText.trim()); // a guard's is plain
        ok({ reason: said || `the server gave no verdict (${asked.status}); reload the page, then drop it again` });
      };
      asked.onerror = asked.onabort = () =>
        ok({ reason: "it did not arrive: the connection ended, or the file can no longer be read" });
      asked.send(file);
    });
  // Every file below what was dropped, and what could not be read of it.
  const filesOf = async (entries) => {
    const found = [], lost = [];
    const walk = async (entry) => {
      const name = entry.fullPath.replace(/^\/+/, "");
      try {
        if (entry.isFile) {
          const file = await new Promise((ok, no) => entry.file(ok, no));
          places.set(file, name);
          found.push(file);
          return;
        }
        const reader = entry.createReader();
        for (;;) {
          const part = await new Promise((ok, no) => reader.readEntries(ok, no));
          if (!part.length) return;
          for (const inner of part) await walk(inner);
        }
      } catch (error) {
        lost.push({ name, reason: `the browser cannot read it (${error?.name || "no reason given"})` });
      }
    };
    for (const entry of entries) await walk(entry);
    return [found, lost];
  };
  // Captions first: a picture then finds its own beside it.
  const rank = (file) => (/\.(txt|jsonl|csv)$/i.test(file.name) ? 0 : 1);

  // A page that is left takes the files with it that are still to be sent.
  let batches = 0;
  const stay = (event) => {
    event.preventDefault();
    event.returnValue = "";
  };
  const sending = (change) => {
    batches += change;
    batches ? addEventListener("beforeunload", stay) : removeEventListener("beforeunload", stay);
  };
  // A file that is dropped beside the zone would be opened in place of the page.
  const withFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  for (const kind of ["dragover", "drop"])
    document.addEventListener(kind, (event) => {
      if (event.defaultPrevented || !withFiles(event)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "none";
    });

  // What was dropped into one set: what is told of it, and how it goes.
  class Batch {
    constructor(dataset, done) {
      Object.assign(this, { dataset, done, waiting: [], lost: [], gone: new Map(), box: document.createElement("div") });
      Object.assign(this, { active: false, total: 0, finished: 0, kept: 0, refused: 0, listed: 0 });
      const parts = [document.createElement("span"), document.createElement("span"), document.createElement("ul")];
      [this.head, this.percent, this.reasons] = parts;
      this.percent.setAttribute("aria-hidden", "true"); // it would be read out at every percent
      this.reasons.hidden = true;
      this.box.append(...parts);
    }
    add(files, lost) {
      this.waiting.push(...files);
      this.waiting.sort((a, b) => rank(a) - rank(b));
      this.total += files.length;
      this.lost.push(...lost);
      this.active || !files.length ? this.tell() : this.run();
    }
    async run() {
      this.active = true;
      this.tell();
      sending(1);
      await Promise.all(Array.from({ length: AT_ONCE }, () => this.work()));
      this.active = false;
      sending(-1);
      this.tell();
      this.done();
    }
    async work() {
      for (let file = this.waiting.shift(); file; file = this.waiting.shift()) {
        const answer = await send(this.dataset, file, (part) => {
          this.gone.set(file, part);
          this.tell();
        });
        this.gone.delete(file);
        for (const verdict of answer.verdicts || []) verdict.accepted ? this.kept++ : this.refused++;
        if (answer.reason) this.lost.push({ name: nameOf(file), reason: answer.reason });
        this.finished++;
        this.tell();
        if (this.finished % 20 === 0) this.done();
      }
    }
    tell() {
      const parts = [`${this.kept} taken`];
      if (this.refused) parts.push(`${this.refused} refused: see below why`);
      if (this.lost.length) parts.push(`${this.lost.length} did not get through:`);
      const now = `Looking at ${Math.min(this.finished + 1, this.total)} of ${this.total}…`;
      const text = this.active ? now : parts.join(", ");
      if (this.head.textContent !== text) this.head.textContent = text;
      const lines = [...this.gone].map(([file, part]) =>
        part < 1 ? `Sending ${file.name}: ${Math.floor(100 * part)} %` : `${file.name} has arrived and is looked at`);
      this.percent.textContent = lines.length ? ` ${lines.join(", ")}` : "";
      for (; this.listed < this.lost.length; this.listed++) {
        const line = document.createElement("li");
        line.textContent = `${this.lost[this.listed].name}: ${this.lost[this.listed].reason}`; // text, never markup
        this.reasons.append(line);
      }
      this.reasons.hidden = !this.lost.length;
    }
  }

  const NO_SET = "There is no set of photos to put them into: name a new one, press “New set”, and drop them again.";
  window.tunerDropzone = (element, done) => {
    const all = new Map(); // by set
    let without = null;
    const chosen = () => element.querySelector(".drop")?.dataset.upload; // none until there is a set
    const shown = () => {
      const here = chosen();
      const others = [...all.values()].filter((one) => one.dataset !== here && (one.active || one.lost.length));
      for (const one of all.values()) one.box.dataset.before = one.dataset === here ? "" : "The set chosen before: ";
      const boxes = [...others, ...(all.has(here) ? [all.get(here)] : [])].map((one) => one.box);
      return here || !without ? boxes : [...boxes, without];
    };
    // A page that is drawn anew knows nothing of these words, and takes them away.
    const draw = () => {
      const said = element.querySelector(".drop-said"), boxes = shown();
      if (said && (said.childNodes.length !== boxes.length || boxes.some((box, at) => said.childNodes[at] !== box)))
        said.replaceChildren(...boxes);
    };
    new MutationObserver(draw).observe(element, { subtree: true, childList: true, attributeFilter: ["data-upload"] });
    const take = (dataset, files, lost = []) => {
      for (const [name, one] of all) if (!one.active) all.delete(name);
      without = null;
      if (!dataset) {
        without = document.createElement("div");
        without.textContent = NO_SET;
      } else if (files.length || lost.length) {
        if (!all.has(dataset)) all.set(dataset, new Batch(dataset, done));
        all.get(dataset).add(files, lost);
      }
      draw();
    };
    element.addEventListener("change", (event) => {
      if (event.target.type !== "file") return;
      const files = [...event.target.files];
      event.target.value = "";
      event.stopPropagation();
      take(chosen(), files);
    });
    for (const kind of ["dragenter", "dragover"])
      element.addEventListener(kind, (event) => {
        if (!withFiles(event)) return;
        event.preventDefault();
        element.querySelector(".drop")?.classList.add("over");
      });
    for (const kind of ["dragleave", "drop"])
      element.addEventListener(kind, () => element.querySelector(".drop")?.classList.remove("over"));
    element.addEventListener("drop", async (event) => {
      if (!withFiles(event)) return;
      event.preventDefault();
      // all of it at once: after the first wait the browser has emptied what was dropped
      const dataset = chosen(), plain = [...event.dataTransfer.files];
      const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
      const [files, lost] = dataset && entries.length ? await filesOf(entries) : [plain, []];
      take(dataset, files.length || lost.length ? files : plain, lost);
    });
  };
})();
