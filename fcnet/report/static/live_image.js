// The input image: an array of pixels that the reader draws on, and the conversion of image files to such arrays.

/** The distance from a point to the line segment between two others. */
function distanceToSegment(x, y, from, to) {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const length = dx * dx + dy * dy;
  const t = length ? Math.min(1, Math.max(0, ((x - from.x) * dx + (y - from.y) * dy) / length)) : 0;
  return Math.hypot(x - from.x - t * dx, y - from.y - t * dy);
}

/** An image with an undo history. `pixels` holds C × H × W values from 0 to 255. */
class DrawableImage {
  constructor([channels, height, width], pixels) {
    Object.assign(this, { channels, height, width, history: [] });
    this.load(pixels);
  }

  /** Replaces the image and clears the history. */
  load(pixels) {
    this.original = Uint8ClampedArray.from(pixels);
    this.pixels = this.original.slice();
    this.history = [];
  }

  /** Saves the current pixels for `undo`. */
  pushHistory() {
    this.history.push(this.pixels.slice());
    if (this.history.length > 100) this.history.shift();
  }

  undo() {
    this.pixels = this.history.pop() || this.pixels;
  }

  mapPixels(mapPixel) {
    this.pushHistory();
    this.pixels = this.pixels.map((value, index) => mapPixel(value, Math.floor(index / (this.height * this.width))));
  }

  restore() {
    this.pushHistory();
    this.pixels = this.original.slice();
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

/** Splits an image into its channels: red, green and blue, or the ITU-R 601 grey level. */
function splitChannels({ data, width, height }, channels) {
  return Array.from({ length: channels }, (_, channel) => {
    const values = new Uint8ClampedArray(width * height);
    for (let index = 0; index < values.length; index++) {
      const [red, green, blue] = [data[4 * index], data[4 * index + 1], data[4 * index + 2]];
      const grey = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16;
      values[index] = channels === 1 ? grey : data[4 * index + channel];
    }
    return values;
  });
}

/** Reads an image file into a network's input shape, with EXIF orientation applied and transparency over white. */
async function readImageFile(file, [channels, height, width]) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const image = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const planes = splitChannels(image, channels).map((plane) => resizeToCover(plane, image, height, width));
  return Uint8ClampedArray.from({ length: channels * height * width }, (_, index) => {
    const plane = height * width;
    return planes[Math.floor(index / plane)][index % plane];
  });
}
