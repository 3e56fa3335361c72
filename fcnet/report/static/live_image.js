// The input image: an array of pixels that the reader draws on, and the resizing of images to its shape.

/** The distance from a point to the line segment between two others. */
function distanceToSegment(x, y, from, to) {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const length = dx * dx + dy * dy;
  const t = length ? Math.min(1, Math.max(0, ((x - from.x) * dx + (y - from.y) * dy) / length)) : 0;
  return Math.hypot(x - from.x - t * dx, y - from.y - t * dy);
}

/**
 * An image with an undo history. `pixels` holds C × H × W values from 0 to 255; `isDrawing` tells whether they began as a
 * blank image.
 */
class DrawableImage {
  constructor([channels, height, width], pixels) {
    Object.assign(this, { channels, height, width, history: [] });
    this.load(pixels);
  }

  /** Replaces the image and clears the history. */
  load(pixels) {
    this.original = Uint8ClampedArray.from(pixels);
    this.pixels = this.original.slice();
    this.isDrawing = false;
    this.history = [];
  }

  /** Whether any pixel differs from the image as it was loaded. */
  get isChanged() {
    return this.pixels.some((value, index) => value !== this.original[index]);
  }

  /** Saves the current state for `undo`. */
  pushHistory() {
    this.history.push([this.pixels.slice(), this.isDrawing]);
    if (this.history.length > 100) this.history.shift();
  }

  undo() {
    [this.pixels, this.isDrawing] = this.history.pop() || [this.pixels, this.isDrawing];
  }

  invert() {
    this.pushHistory();
    this.pixels = this.pixels.map((value) => 255 - value);
  }

  clear(blank) {
    this.pushHistory();
    this.pixels = blank.slice();
    this.isDrawing = true;
  }

  restore() {
    this.pushHistory();
    this.pixels = this.original.slice();
    this.isDrawing = false;
  }

  /** Starts a stroke of one colour. A stroke blends with the original pixels, so crossing itself does not darken it. */
  beginStroke(colour, radius) {
    this.pushHistory();
    this.stroke = { colour, radius, base: this.pixels.slice(), cover: new Float32Array(this.height * this.width) };
  }

  /** Continues the stroke from one point to another, both in pixels from the upper left corner. */
  draw(from, to) {
    const { radius, cover } = this.stroke;
    const reach = radius + 0.5;
    const left = Math.max(0, Math.floor(Math.min(from.x, to.x) - reach));
    const right = Math.min(this.width, Math.ceil(Math.max(from.x, to.x) + reach));
    const top = Math.max(0, Math.floor(Math.min(from.y, to.y) - reach));
    const bottom = Math.min(this.height, Math.ceil(Math.max(from.y, to.y) + reach));
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) {
        const alpha = Math.min(1, reach - distanceToSegment(x + 0.5, y + 0.5, from, to));
        if (alpha > cover[y * this.width + x]) this.blendPixel(y * this.width + x, alpha);
      }
    }
  }

  blendPixel(index, alpha) {
    const { colour, base, cover } = this.stroke;
    cover[index] = alpha;
    colour.forEach((value, channel) => {
      const here = channel * this.height * this.width + index;
      this.pixels[here] = base[here] + (value - base[here]) * alpha;
    });
  }

  pixelAt(x, y) {
    const plane = this.height * this.width;
    return Array.from({ length: this.channels }, (_, channel) => this.pixels[channel * plane + y * this.width + x]);
  }
}

/** Paints pixels on a canvas, one canvas pixel each. */
function paint(canvas, pixels, [channels, height, width]) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const plane = height * width;
  for (let index = 0; index < plane; index++) {
    for (let channel = 0; channel < 3; channel++) {
      image.data[4 * index + channel] = pixels[(channels === 3 ? channel : 0) * plane + index];
    }
    image.data[4 * index + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** Pillow's bicubic kernel with a = −0.5: the weight of a pixel at a distance. */
function cubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/** For each of `count` output pixels, the index of the first input pixel and the weights from there on. */
function resampleWeights(size, start, length, count) {
  const scale = length / count;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: count }, (_, index) => {
    const centre = start + (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - 2 * stretch + 0.5));
    const end = Math.min(size, Math.trunc(centre + 2 * stretch + 0.5));
    const weights = Array.from({ length: end - first }, (__, i) => cubic((first + i - centre + 0.5) / stretch));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

/** Resamples each row of one channel, rows × size. */
function resampleRows(values, size, rows, outputs) {
  const result = new Uint8ClampedArray(rows * outputs.length);
  for (let row = 0; row < rows; row++) {
    outputs.forEach(({ first, weights }, column) => {
      let sum = 0;
      for (let i = 0; i < weights.length; i++) sum += values[row * size + first + i] * weights[i];
      result[row * outputs.length + column] = sum;
    });
  }
  return result;
}

function transpose(values, rows, columns) {
  const result = new Uint8ClampedArray(values.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) result[column * rows + row] = values[row * columns + column];
  }
  return result;
}

/** Crops a channel to the new aspect ratio around its centre and resizes it, as training does. */
function resizeToCover(values, old, height, width) {
  if (old.width === width && old.height === height) return values;
  const scale = Math.min(old.width / width, old.height / height);
  const across = Math.max(0, (old.width - scale * width) / 2);
  const down = Math.max(0, (old.height - scale * height) / 2);
  const columns = resampleWeights(old.width, across, old.width - 2 * across, width);
  const rows = resampleWeights(old.height, down, old.height - 2 * down, height);
  const narrow = transpose(resampleRows(values, old.width, old.height, columns), old.height, width);
  return transpose(resampleRows(narrow, old.height, width, rows), width, height);
}
