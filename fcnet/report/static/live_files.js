// Image files: reading them into a network's input shape, and catching what is dropped on the page.

const MAX_FILE_MEGABYTES = 512;
const STRIP_PIXELS = 4e6; // browsers limit the area of a canvas

/** Splits a strip of an image into its channels, red, green and blue or the ITU-R 601 grey level, from a row on. */
function splitChannels({ data, width, height }, planes, row) {
  planes.forEach((plane, channel) => {
    for (let index = 0; index < width * height; index++) {
      const [red, green, blue] = [data[4 * index], data[4 * index + 1], data[4 * index + 2]];
      const grey = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16;
      plane[row * width + index] = planes.length === 1 ? grey : data[4 * index + channel];
    }
  });
}

/** Reads the channels of a bitmap, with transparency over white. */
function readChannels(bitmap, channels) {
  const { width, height } = bitmap;
  const planes = Array.from({ length: channels }, () => new Uint8ClampedArray(width * height));
  const canvas = element("canvas");
  canvas.width = width;
  canvas.height = Math.min(height, Math.max(1, Math.floor(STRIP_PIXELS / width)));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (let row = 0; row < height; row += canvas.height) {
    const rows = Math.min(canvas.height, height - row);
    context.fillStyle = "white";
    context.fillRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, row, width, rows, 0, 0, width, rows);
    splitChannels(context.getImageData(0, 0, width, rows), planes, row);
  }
  return planes;
}

/** Decodes an image file, with EXIF orientation applied; an error says what is wrong with the file. */
async function decodeImage(file) {
  if (!file.size) throw new Error(`${file.name} is empty`);
  if (file.type && !file.type.startsWith("image/")) throw new Error(`${file.name} is not an image, but ${file.type}`);
  if (file.size > MAX_FILE_MEGABYTES * 2 ** 20) {
    throw new Error(`${file.name} must have at most ${MAX_FILE_MEGABYTES} MB, and has ${Math.ceil(file.size / 2 ** 20)} MB`);
  }
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${file.name} is damaged, or not an image that this browser can read`);
  }
}

/** Reads an image file into a network's input shape. */
async function readImageFile(file, [channels, height, width], maxPixels) {
  const bitmap = await decodeImage(file);
  try {
    if (bitmap.width * bitmap.height > maxPixels) {
      const size = `${bitmap.width} × ${bitmap.height}`;
      throw new Error(`${file.name} must have at most ${maxPixels / 1e6} megapixels, and has ${size} pixels`);
    }
    const planes = readChannels(bitmap, channels).map((plane) => resizeToCover(plane, bitmap, height, width));
    const pixels = new Uint8ClampedArray(channels * height * width);
    planes.forEach((plane, channel) => pixels.set(plane, channel * height * width));
    return pixels;
  } finally {
    bitmap.close();
  }
}

/** "dark" or "light" if most pixels along an image's border are; `fcnet.report.live_demo` does the same. */
function backgroundTone(pixels, [channels, height, width]) {
  const border = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (x % (width - 1) && y % (height - 1)) continue;
      let sum = 0;
      for (let channel = 0; channel < channels; channel++) sum += pixels[(channel * height + y) * width + x];
      border.push(sum / channels);
    }
  }
  const share = (test) => border.filter(test).length / border.length;
  if (share((value) => value < 64) >= 0.6) return "dark";
  return share((value) => value > 191) >= 0.6 ? "light" : null;
}

/** The files that were dropped, and the names of the folders, which look like files of an unknown type. */
function droppedFiles(transfer) {
  const entries = [...(transfer ? transfer.items : [])].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry());
  const folders = entries.filter((entry) => entry && entry.isDirectory).map(({ name }) => name);
  return { files: [...(transfer ? transfer.files : [])].filter(({ name }) => !folders.includes(name)), folders };
}

/** Opens a file that is dropped on a live demo in that demo, and one that is dropped elsewhere on the page in all. */
function catchDrops(demos) {
  const hint = element("div", { class: "live-drop-hint", "aria-hidden": true }, element("p", {}, "Drop an image to classify it"));
  hint.hidden = true;
  document.body.append(hint);
  let timer;
  const showHint = (shown) => {
    hint.hidden = !shown;
    clearTimeout(timer);
    // No event tells for certain that a drag has ended; while it lasts, dragover comes several times a second.
    if (shown) timer = setTimeout(showHint, 1000, false);
  };
  const hasFiles = ({ dataTransfer }) => dataTransfer && [...dataTransfer.types].includes("Files");
  for (const type of ["dragenter", "dragover"]) {
    addEventListener(type, (event) => {
      event.preventDefault(); // else the browser leaves the page for what is dropped
      if (event.dataTransfer) event.dataTransfer.dropEffect = hasFiles(event) ? "copy" : "none";
      showHint(hasFiles(event));
    });
  }
  addEventListener("dragleave", ({ relatedTarget }) => relatedTarget || showHint(false));
  addEventListener("drop", (event) => {
    event.preventDefault();
    showHint(false);
    const { files, folders } = droppedFiles(event.dataTransfer);
    const here = demos.filter(({ root }) => root.contains(event.target));
    for (const demo of here.length ? here : demos) {
      if (files.length) demo.open(files);
      else if (folders.length) demo.say(`${folders[0]} is a folder; drop an image file.`);
      else demo.say("What was dropped holds no file; drop an image file.");
    }
    if (!here.length) demos[0].find("summary").scrollIntoView();
  });
}
