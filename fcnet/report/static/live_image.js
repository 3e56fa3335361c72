// The picture: pixels channel by channel that are drawn on, and files made into such pixels.

/** The distance of a point from the line between two others. */
function distanceToSegment(x, y, from, to) {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const length = dx * dx + dy * dy;
  const along = length ? Math.min(1, Math.max(0, ((x - from.x) * dx + (y - from.y) * dy) / length)) : 0;
  return Math.hypot(x - from.x - along * dx, y - from.y - along * dy);
}

/** A picture that remembers what it was: `pixels` are C × H × W values of 0 to 255. */
class DrawableImage {
  constructor([channels, height, width], pixels) {
    Object.assign(this, { channels, height, width, history: [] });
    this.load(pixels);
  }

  /** Begins anew with other pixels. */
  load(pixels) {
    this.original = Uint8ClampedArray.from(pixels);
    this.pixels = this.original.slice();
    this.history = [];
  }

  /** Keeps what is now there, for `undo`. */
  pushHistory() {
    this.history.push(this.pixels.slice());
    if (this.history.length > 100) this.history.shift();
  }

  undo() {
    this.pixels = this.history.pop() || this.pixels;
  }

  mapPixels(mapPixel) {
    this.pushHistory();
    this.pixels = this.pixels.map((value, place) => mapPixel(value, Math.floor(place / (this.height * this.width))));
  }

  restore() {
    this.pushHistory();
    this.pixels = this.original.slice();
  }

  /** Begins a line of one colour, which covers a pixel only once however often it passes. */
  beginStroke(colour, radius) {
    this.pushHistory();
    this.stroke = { colour, radius, base: this.pixels.slice(), cover: new Float32Array(this.height * this.width) };
  }

  /** Draws the stroke on, from one point to another, both in pixels from the upper left corner. */
  draw(from, to) {
    const { radius, cover } = this.stroke;
    const reach = radius + 0.5;
    const left = Math.max(0, Math.floor(Math.min(from.x, to.x) - reach));
    const right = Math.min(this.width, Math.ceil(Math.max(from.x, to.x) + reach));
    const top = Math.max(0, Math.floor(Math.min(from.y, to.y) - reach));
    const bottom = Math.min(this.height, Math.ceil(Math.max(from.y, to.y) + reach));
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) {
        const share = Math.min(1, reach - distanceToSegment(x + 0.5, y + 0.5, from, to));
        if (share > cover[y * this.width + x]) this.blendPixel(y * this.width + x, share);
      }
    }
  }

  blendPixel(place, share) {
    const { colour, base, cover } = this.stroke;
    cover[place] = share;
    colour.forEach((value, channel) => {
      const here = channel * this.height * this.width + place;
      this.pixels[here] = base[here] + (value - base[here]) * share;
    });
  }

  pixelAt(x, y) {
    const plane = this.height * this.width;
    return Array.from({ length: this.channels }, (_, channel) => this.pixels[channel * plane + y * this.width + x]);
  }
}

/** Pixels on a canvas of their own size. */
function paint(canvas, pixels, [channels, height, width]) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const plane = height * width;
  for (let place = 0; place < plane; place++) {
    for (let channel = 0; channel < 3; channel++) {
      image.data[4 * place + channel] = pixels[(channels === 3 ? channel : 0) * plane + place];
    }
    image.data[4 * place + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** Pillow's cubic: how much a pixel counts at a distance. */
function cubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/** For each of `count` new pixels, the first of the old ones that it is made of and how much each counts. */
function resampleWeights(size, start, length, count) {
  const scale = length / count;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: count }, (_, place) => {
    const centre = start + (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - 2 * stretch + 0.5));
    const end = Math.min(size, Math.trunc(centre + 2 * stretch + 0.5));
    const shares = Array.from({ length: end - first }, (__, i) => cubic((first + i - centre + 0.5) / stretch));
    const sum = shares.reduce((a, b) => a + b, 0);
    return { first, shares: shares.map((share) => share / sum) };
  });
}

/** One channel, rows × size, with each row brought to other pixels. */
function resampleRows(values, size, rows, parts) {
  const result = new Uint8ClampedArray(rows * parts.length);
  for (let row = 0; row < rows; row++) {
    parts.forEach(({ first, shares }, place) => {
      let sum = 0;
      for (let i = 0; i < shares.length; i++) sum += values[row * size + first + i] * shares[i];
      result[row * parts.length + place] = sum;
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

/** The middle of a channel, as large as the proportions allow, at the new size: what training does. */
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

/** A picture's channels: red, green and blue, or the grey of ITU-R 601. */
function splitChannels({ data, width, height }, channels) {
  return Array.from({ length: channels }, (_, channel) => {
    const values = new Uint8ClampedArray(width * height);
    for (let place = 0; place < values.length; place++) {
      const [red, green, blue] = [data[4 * place], data[4 * place + 1], data[4 * place + 2]];
      const grey = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16;
      values[place] = channels === 1 ? grey : data[4 * place + channel];
    }
    return values;
  });
}

/** The pixels of a picture's file in a network's shape: upright, over white where it is transparent. */
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
  return Uint8ClampedArray.from({ length: channels * height * width }, (_, place) => {
    const plane = height * width;
    return planes[Math.floor(place / plane)][place % plane];
  });
}
