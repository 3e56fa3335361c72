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
    this.image.isDrawing = !images.length;
    this.scaling = { sigmoid: 1, softmax: 1 };
    this.erasing = false;
    this.opened = 0;
    this.cell = { x: Math.floor(size[2] / 2), y: Math.floor(size[1] / 2) };
    this.build();
  }

  build() {
    const { layers, classes, short_names: names } = this.network;
    const hidden = layers.slice(0, -1).map((layer) => new LayerView(this.root, layer));
    this.views = [...hidden, new LogitView(layers[layers.length - 1], classes, names)];
    this.find("layers").append(...this.views.map((view) => view.figure));
    this.probabilities = new ProbabilityView(this.find("probabilities"), classes, names);
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
      const name = `${names[index]}, true class ${classes[labels[index]]}`;
      const label = wrong ? `${name}, predicted class ${classes[predicted[index]]}` : name;
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
    const { images, labels, names, short_names: short } = this.network;
    this.opened += 1; // a file that is still being read must not replace this image
    this.image.load(images[index]);
    this.truth = short[labels[index]];
    this.setSource(`${names[index]} (${index + 1} of ${images.length})`, this.thumbnails[index]);
  }

  /** Names the image's source, marks its thumbnail and recomputes. */
  setSource(source, thumbnail) {
    for (const button of this.thumbnails) {
      button.setAttribute("aria-pressed", button === thumbnail);
      button.tabIndex = button === (thumbnail || this.thumbnails[0]) ? 0 : -1;
    }
    this.source = source;
    this.say("");
    this.showPolarity();
    this.refresh();
  }

  /** Shows a sentence about an image file; an empty one hides the last. */
  say(sentence) {
    this.find("message").textContent = sentence;
    this.find("message").hidden = !sentence;
  }

  buildFile() {
    const input = this.find("file");
    input.addEventListener("change", () => {
      if (input.files.length) this.open([...input.files]);
      input.value = ""; // the same file may be opened again, after it has changed
    });
    this.find("flip").addEventListener("click", () => {
      this.image.invert();
      this.showPolarity(this.polarity.name, !this.polarity.inverted);
      this.refresh();
    });
  }

  /** Opens the first image of some files; says why if it cannot. */
  async open(files) {
    const file = files.find(({ type }) => type.startsWith("image/")) || files[0];
    const { shape, max_pixels: maxPixels, tone } = this.network;
    const number = ++this.opened;
    this.say(`Reading ${file.name} …`);
    let pixels;
    try {
      pixels = await readImageFile(file, shape, maxPixels);
    } catch (error) {
      if (number === this.opened) this.say(`${error.message}. The image below is still the one before.`);
      return;
    }
    if (number !== this.opened) return;
    // In colour an inverted photo has false colours, so that the reader decides.
    const opposite = backgroundTone(pixels, shape) === { dark: "light", light: "dark" }[tone];
    const inverted = opposite && shape[0] === 1;
    this.image.load(inverted ? pixels.map((value) => 255 - value) : pixels);
    this.truth = undefined;
    this.setSource(`Your image, ${file.name}`);
    if (opposite) this.showPolarity(file.name, inverted);
    if (files.length > 1) this.say(`One image at a time: this is ${file.name}, one of ${files.length} files.`);
  }

  /** Says that an image file is light on dark and the test images are not, or the reverse; hides that without a name. */
  showPolarity(name, inverted) {
    const [own, usual] = this.network.tone === "dark" ? ["dark on light", "light on dark"] : ["light on dark", "dark on light"];
    this.polarity = { name, inverted };
    this.find("polarity").hidden = !name;
    this.find("polarity-text").textContent = inverted
      ? `${name} is ${own}. The test images are ${usual}, so it is shown inverted.`
      : `${name} is ${own}, but the test images are ${usual}.`;
    this.find("flip").textContent = inverted ? "Do not invert" : "Invert the image";
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
    this.onClick("clear", () => this.image.clear(this.blank));
    this.onClick("invert", () => this.image.invert());
    this.onClick("undo", () => this.image.undo());
    this.onClick("restore", () => this.image.restore());
  }

  onClick(name, change) {
    this.find(name).addEventListener("click", () => {
      change();
      this.showPolarity(); // what it says may no longer hold
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
      board.addEventListener(end, ({ isPrimary }) => {
        if (isPrimary) this.last = null;
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
    if (!event.isPrimary || (event.button !== 0 && event.button !== 5)) return; // a second finger draws nothing
    event.preventDefault();
    event.target.focus({ preventScroll: true });
    event.target.setPointerCapture(event.pointerId);
    this.beginStroke(this.erasing || event.button === 5); // 5 is the eraser end of a pen
    this.last = this.pointerPosition(event);
    this.drawTo(this.last);
  }

  onPointerMove(event) {
    if (!event.isPrimary) return;
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
    setText(this.find("position"), `Row ${this.cell.y + 1}, column ${this.cell.x + 1}: ${values}`);
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
    this.views.forEach((view, index) => view.show(result.layers[index].a, order));
    this.probabilities.show(result.probabilities, order);
    this.drawPlots(result, layers, order);
    this.find("undo").disabled = !this.image.history.length;
    this.moveCell(0, 0);
    this.root.dataset.probabilities = JSON.stringify(result.probabilities);
    this.root.dispatchEvent(new CustomEvent("fcnet-computed", { detail: result }));
    this.summarize(result.probabilities, order);
  }

  drawPlots(result, layers, order) {
    const { classes, short_names: names } = this.network;
    const plots = { sigmoid: this.find("sigmoid-plot"), softmax: this.find("softmax-plot") };
    if (plots.sigmoid) {
      const units = layers.flatMap(({ activation }, i) => (activation === "sigmoid" ? [...result.layers[i].z] : []));
      drawSigmoids(plots.sigmoid, this.scaling.sigmoid, units, classes.length === 2 ? [...result.logits] : []);
    }
    if (plots.softmax) drawSoftmaxCurves(plots.softmax, this.scaling.softmax, result.logits, order, names);
  }

  /**
   * Describes the image and its two most probable classes. The label of a test image is that of its own pixels: once
   * they are changed, nobody knows the class. Screen readers read the text aloud once the image stops changing.
   */
  summarize(probabilities, order) {
    const describe = (label) => `${this.network.short_names[label]} (${formatPercent(probabilities[label])})`;
    const { isChanged, isDrawing } = this.image;
    const truth = this.truth === undefined || isChanged ? "" : ` True class: ${this.truth}.`;
    const text = `Prediction: ${describe(order[0])}, then ${describe(order[1])}.${truth}`;
    this.find("source").textContent = !isChanged ? this.source : isDrawing ? "Your drawing" : `${this.source}, edited`;
    this.find("summary").textContent = text;
    clearTimeout(this.summaryTimer);
    this.summaryTimer = setTimeout(() => setText(this.find("announcement"), text), 500);
  }
}

const demos = [...document.querySelectorAll(".live")].map((root) => new Live(root));
catchDrops(demos);
