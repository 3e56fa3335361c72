// The live demo: handles the reader's input and updates the views.

/** Reads the network's layers, the test images and the class names from the page. */
function readNetworkData(root) {
  const metadata = JSON.parse(root.querySelector("[data-live=metadata]").textContent);
  const { buffer } = decodeBase64(root.querySelector("[data-live=tensors]").textContent);
  const pixels = decodeBase64(root.querySelector("[data-live=images]").textContent);
  const size = metadata.shape.reduce((a, b) => a * b);
  return {
    ...metadata,
    layers: metadata.layers.map((layer) => readLayer(buffer, layer)),
    images: metadata.labels.map((_, index) => pixels.subarray(index * size, (index + 1) * size)),
  };
}

/** One live demo: its network, its input image and its views. */
class Live {
  constructor(root) {
    this.root = root;
    this.network = readNetworkData(root);
    this.find = (name) => root.querySelector(`[data-live=${name}]`);
    const { shape: size, background, images } = this.network;
    this.blank = Uint8ClampedArray.from(
      { length: size[0] * size[1] * size[2] },
      (_, index) => background[Math.floor(index / (size[1] * size[2]))],
    );
    this.image = new DrawableImage(size, images.length ? images[0] : this.blank);
    this.scaling = { sigmoid: 1, softmax: 1 };
    this.erasing = false;
    this.cell = { x: Math.floor(size[2] / 2), y: Math.floor(size[1] / 2) };
    this.build();
  }

  build() {
    const { layers, classes } = this.network;
    this.views = layers.map((layer, index) => new LayerView(this.root, layer, index + 1 === layers.length));
    this.find("layers").append(...this.views.map((view) => view.figure));
    this.probabilities = new ProbabilityView(this.find("probabilities"), classes);
    this.buildThumbnails();
    this.buildTools();
    this.buildBoard();
    this.buildFile();
    this.buildSlider("sigmoid");
    this.buildSlider("softmax");
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.refresh());
    this.find("no-script").remove();
    this.find("app").hidden = false;
    if (this.network.images.length) this.pick(0);
    else this.setSource("Blank image");
  }

  // ---- input image

  buildThumbnails() {
    const strip = this.find("thumbnails");
    const { images, labels, classes, predicted, names } = this.network;
    this.thumbnails = images.map((pixels, index) => {
      const canvas = element("canvas");
      paint(canvas, pixels, this.network.shape);
      const wrong = predicted[index] !== labels[index];
      const name = `${names[index]}, ${classes[labels[index]]}`;
      const label = wrong ? `${name}, predicted as ${classes[predicted[index]]}` : name;
      const button = element("button", { type: "button", "aria-label": label, title: label, tabindex: -1 }, canvas);
      button.classList.toggle("live-misclassified", wrong);
      button.addEventListener("click", () => this.pick(index));
      return button;
    });
    strip.append(...this.thumbnails);
    strip.addEventListener("keydown", (event) => this.stepThumbnail(event));
  }

  stepThumbnail(event) {
    const here = this.thumbnails.indexOf(event.target);
    const last = this.thumbnails.length - 1;
    const goals = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: last };
    if (!(event.key in goals)) return;
    event.preventDefault();
    this.thumbnails[Math.min(last, Math.max(0, goals[event.key]))].focus();
  }

  pick(index) {
    const { images, labels, classes, names } = this.network;
    this.image.load(images[index]);
    this.truth = classes[labels[index]];
    this.setSource(`${names[index]} (${index + 1} of ${images.length})`, this.thumbnails[index]);
  }

  /** Shows the image's source, marks its thumbnail and recomputes. */
  setSource(source, thumbnail) {
    for (const button of this.thumbnails) {
      button.setAttribute("aria-pressed", button === thumbnail);
      button.tabIndex = button === (thumbnail || this.thumbnails[0]) ? 0 : -1;
    }
    this.find("source").textContent = source;
    this.refresh();
  }

  buildFile() {
    const input = this.find("file");
    input.addEventListener("change", () => input.files.length && this.open(input.files[0]));
    this.root.addEventListener("dragover", (event) => {
      event.preventDefault();
      this.root.classList.add("live-dragover");
    });
    this.root.addEventListener("dragleave", () => this.root.classList.remove("live-dragover"));
    this.root.addEventListener("drop", (event) => {
      event.preventDefault();
      this.root.classList.remove("live-dragover");
      if (event.dataTransfer.files.length) this.open(event.dataTransfer.files[0]);
    });
  }

  async open(file) {
    try {
      this.image.load(await readImageFile(file, this.network.shape));
    } catch {
      this.find("source").textContent = `This browser cannot read ${file.name} as an image`;
      return;
    }
    this.truth = undefined;
    this.setSource(`Your image, ${file.name}`);
  }

  // ---- drawing

  buildTools() {
    const [channels, height, width] = this.network.shape;
    const brush = this.find("brush");
    brush.max = Math.max(2, Math.floor(Math.min(height, width) / 2));
    brush.value = Math.max(1.5, Math.round(width / 8) / 2);
    const bright = this.network.background.reduce((a, b) => a + b) / channels > 127;
    const grey = this.find("grey");
    const colour = this.find("colour");
    (channels === 1 ? colour : grey).closest("label").remove();
    grey.value = bright ? 0 : 255;
    colour.value = bright ? "#000000" : "#ffffff";
    this.colour = () =>
      channels === 1 ? [Number(grey.value)] : [1, 3, 5].map((at) => parseInt(colour.value.slice(at, at + 2), 16));
    this.setErasing(false);
    this.find("draw").addEventListener("click", () => this.setErasing(false));
    this.find("erase").addEventListener("click", () => this.setErasing(true));
    this.onClick("clear", () => this.image.mapPixels((_, channel) => this.network.background[channel]));
    this.onClick("invert", () => this.image.mapPixels((value) => 255 - value));
    this.onClick("undo", () => this.image.undo());
    this.onClick("restore", () => this.image.restore());
  }

  onClick(name, change) {
    this.find(name).addEventListener("click", () => {
      change();
      this.refresh();
    });
  }

  setErasing(erasing) {
    this.erasing = erasing;
    this.find("draw").setAttribute("aria-pressed", !erasing);
    this.find("erase").setAttribute("aria-pressed", erasing);
  }

  beginStroke(erasing) {
    this.image.beginStroke(erasing ? this.network.background : this.colour(), Number(this.find("brush").value) / 2);
  }

  buildBoard() {
    const board = this.find("canvas");
    board.addEventListener("pointerdown", (event) => this.onPointerDown(event));
    board.addEventListener("pointermove", (event) => this.onPointerMove(event));
    for (const end of ["pointerup", "pointercancel"]) {
      board.addEventListener(end, () => {
        this.last = null;
      });
    }
    board.addEventListener("keydown", (event) => this.onKeyDown(event));
  }

  /** The position of a pointer in pixels of the image. */
  pointerPosition(event) {
    const box = this.find("canvas").getBoundingClientRect();
    const { width, height } = this.image;
    return {
      x: ((event.clientX - box.left) / box.width) * width,
      y: ((event.clientY - box.top) / box.height) * height,
    };
  }

  onPointerDown(event) {
    if (event.button !== 0 && event.button !== 5) return;
    event.preventDefault();
    event.target.focus({ preventScroll: true });
    event.target.setPointerCapture(event.pointerId);
    this.beginStroke(this.erasing || event.button === 5); // 5 is the eraser end of a pen
    this.last = this.pointerPosition(event);
    this.drawTo(this.last);
  }

  onPointerMove(event) {
    const here = this.pointerPosition(event);
    this.moveCell(Math.floor(here.x) - this.cell.x, Math.floor(here.y) - this.cell.y);
    if (!this.last) return;
    const between = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const step of [...between, event]) this.drawTo(this.pointerPosition(step));
  }

  drawTo(point) {
    this.image.draw(this.last, point);
    this.last = point;
    this.refreshSoon();
  }

  onKeyDown(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const brushes = { " ": this.erasing, Enter: this.erasing, Delete: true, Backspace: true };
    if (event.key in steps) this.moveCell(...steps[event.key]);
    else if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.image.undo();
    else if (!(event.key in brushes)) return;
    event.preventDefault();
    if (event.key in brushes || (event.shiftKey && event.key in steps)) this.dot(brushes[event.key] || this.erasing);
    this.refreshSoon();
  }

  /** Moves the keyboard cursor, which is shown as a frame around one pixel. */
  moveCell(right, down) {
    const { width, height } = this.image;
    this.cell.x = Math.min(width - 1, Math.max(0, this.cell.x + right));
    this.cell.y = Math.min(height - 1, Math.max(0, this.cell.y + down));
    const frame = this.find("cell");
    frame.style.left = `${(100 * this.cell.x) / width}%`;
    frame.style.top = `${(100 * this.cell.y) / height}%`;
    frame.style.width = `${100 / width}%`;
    frame.style.height = `${100 / height}%`;
    const values = this.image.pixelAt(this.cell.x, this.cell.y).join(", ");
    this.find("position").textContent = `Row ${this.cell.y + 1}, column ${this.cell.x + 1}: ${values}`;
  }

  dot(erasing) {
    const centre = { x: this.cell.x + 0.5, y: this.cell.y + 0.5 };
    this.beginStroke(erasing);
    this.image.draw(centre, centre);
  }

  // ---- sliders

  /** Connects a slider from 1/10 to 10; a network may lack one of the two. */
  buildSlider(kind) {
    const slider = this.find(`${kind}-slider`);
    if (!slider) return;
    const set = () => {
      this.scaling[kind] = 10 ** Number(slider.value);
      const text = this.scaling[kind].toFixed(2);
      this.find(`${kind}-value`).textContent = text;
      slider.setAttribute("aria-valuetext", text);
    };
    slider.addEventListener("input", () => {
      set();
      this.refreshSoon();
    });
    this.find(`${kind}-reset`).addEventListener("click", () => {
      slider.value = 0;
      set();
      this.refresh();
    });
    set();
  }

  // ---- output

  /** Recomputes once before the next frame, however many changes precede it. */
  refreshSoon() {
    if (!this.refreshQueued) requestAnimationFrame(() => this.refresh());
    this.refreshQueued = true;
  }

  refresh() {
    this.refreshQueued = false;
    const { classes, shape: size, layers } = this.network;
    const result = compute(this.network, this.image.pixels, this.scaling);
    const order = [...classes.keys()].sort((a, b) => result.probabilities[b] - result.probabilities[a]);
    paint(this.find("canvas"), this.image.pixels, size);
    this.views.forEach((view, index) => view.show(result.layers[index].a));
    this.probabilities.show(result.probabilities, order);
    this.drawPlots(result, layers, order);
    this.find("undo").disabled = !this.image.history.length;
    this.moveCell(0, 0);
    this.root.dataset.probabilities = JSON.stringify(result.probabilities);
    this.root.dispatchEvent(new CustomEvent("fcnet-computed", { detail: result }));
    this.summarize(result.probabilities, order);
  }

  drawPlots(result, layers, order) {
    const { classes } = this.network;
    const plots = { sigmoid: this.find("sigmoid-plot"), softmax: this.find("softmax-plot") };
    if (plots.sigmoid) {
      const units = layers.flatMap(({ activation }, i) => (activation === "sigmoid" ? [...result.layers[i].z] : []));
      drawSigmoids(plots.sigmoid, this.scaling.sigmoid, units, classes.length === 2 ? [...result.logits] : []);
    }
    if (plots.softmax) drawSoftmaxCurves(plots.softmax, this.scaling.softmax, result.logits, order, classes);
  }

  /** Describes the two most probable classes once the image stops changing; screen readers read it aloud. */
  summarize(probabilities, order) {
    const describe = (label) => `${this.network.classes[label]} (${formatPercent(probabilities[label])})`;
    const truth = this.truth === undefined ? "" : ` True class: ${this.truth}.`;
    clearTimeout(this.summaryTimer);
    this.summaryTimer = setTimeout(() => {
      this.find("summary").textContent = `Prediction: ${describe(order[0])}, then ${describe(order[1])}.${truth}`;
    }, 250);
  }
}

for (const root of document.querySelectorAll(".live")) new Live(root);
