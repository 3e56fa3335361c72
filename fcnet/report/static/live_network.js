// The network: decodes the weights in the page and computes each layer in double precision.

/** Decodes base64 text to bytes. */
function decodeBase64(base64) {
  const text = atob(base64.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** Decodes a float16: 1 sign bit, 5 exponent bits, 10 fraction bits. */
function decodeFloat16(bits) {
  const exponent = (bits >> 10) & 31;
  const fraction = (bits & 1023) / 1024;
  const size = exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14;
  return bits & 0x8000 ? -size : size;
}

const TENSOR_READERS = {
  float32: (buffer, { offset, rows, columns }) => new Float32Array(buffer, offset, rows * columns),
  float16: (buffer, { offset, rows, columns }) =>
    Float32Array.from(new Uint16Array(buffer, offset, rows * columns), decodeFloat16),
  int8: (buffer, { offset, rows, columns, scales }) => {
    const scale = new Float32Array(buffer, scales, rows);
    return Float32Array.from(
      new Int8Array(buffer, offset, rows * columns),
      (value, index) => value * scale[Math.floor(index / columns)],
    );
  },
};

/** Replaces a layer's tensor metadata by arrays; an absent tensor stays null. */
function readLayer(buffer, metadata) {
  const read = (tensor) => tensor && TENSOR_READERS[tensor.dtype](buffer, tensor);
  return {
    ...metadata,
    units: metadata.weight.rows,
    inputs: metadata.weight.columns,
    weight: read(metadata.weight),
    bias: read(metadata.bias),
    gain: read(metadata.gain),
    shift: read(metadata.shift),
  };
}

function sigmoid(x) {
  const z = Math.exp(-Math.abs(x));
  return (x >= 0 ? 1 : z) / (1 + z);
}

/** erfc(x) = 1 − erf(x): a series of positive terms near 0, a continued fraction for large x. */
function erfc(x) {
  if (x < 0) return 2 - erfc(-x);
  const bell = Math.exp(-x * x) / Math.sqrt(Math.PI);
  if (x > 2.5) {
    let fraction = x;
    for (let k = 60; k >= 1; k--) fraction = x + k / 2 / fraction;
    return bell / fraction;
  }
  let term = 2 * x;
  let sum = term;
  for (let n = 1; n < 80; n++) sum += term *= (2 * x * x) / (2 * n + 1);
  return 1 - bell * sum;
}

const ACTIVATIONS = {
  identity: (z) => z,
  sigmoid: (z, scaling) => sigmoid(scaling * z),
  relu: (z) => Math.max(0, z),
  leaky_relu: (z) => (z > 0 ? z : 0.01 * z),
  elu: (z) => (z > 0 ? z : Math.expm1(z)),
  gelu: (z) => (z / 2) * erfc(-z / Math.SQRT2),
};

/** W a + b. */
function affine({ weight, bias, units, inputs }, a) {
  const z = new Float64Array(units);
  for (let unit = 0, index = 0; unit < units; unit++) {
    let sum = bias ? bias[unit] : 0;
    for (let i = 0; i < inputs; i++, index++) sum += weight[index] * a[i];
    z[unit] = sum;
  }
  return z;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Layer norm, γ (z − μ) / √(σ² + ε) + β over the units; returns z if the layer has none. */
function layerNorm({ gain, shift, epsilon }, z) {
  if (!gain) return z;
  const mu = mean(z);
  const sigma = Math.sqrt(mean(z.map((value) => (value - mu) ** 2)) + epsilon);
  return z.map((value, unit) => ((value - mu) / sigma) * gain[unit] + shift[unit]);
}

/** Computes one layer: the pre-activation z and the activation a. */
function computeLayer(layer, input, scaling) {
  const z = layerNorm(layer, affine(layer, input));
  const activation = ACTIVATIONS[layer.activation];
  const a = z.map((value, unit) => activation(value, scaling) + (layer.residual ? input[unit] : 0));
  return { z, a };
}

function softmax(logits, scaling) {
  const top = logits.reduce((a, b) => Math.max(a, b));
  const powers = Array.from(logits, (logit) => Math.exp(scaling * (logit - top)));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

/** The probability of every class. A single output node gives the logit of the second of two classes. */
function predictProba(logits, scaling) {
  if (logits.length > 1) return softmax(logits, scaling.softmax);
  return [sigmoid(-scaling.sigmoid * logits[0]), sigmoid(scaling.sigmoid * logits[0])];
}

/** Computes every layer and the class probabilities for pixels from 0 to 255, channel by channel. */
function compute(network, pixels, scaling) {
  const plane = pixels.length / network.scale.length;
  let a = Float64Array.from(pixels, (pixel, index) => {
    const channel = Math.floor(index / plane);
    return pixel * network.scale[channel] + network.offset[channel];
  });
  const layers = [];
  for (const layer of network.layers) {
    layers.push(computeLayer(layer, a, scaling.sigmoid));
    a = layers[layers.length - 1].a;
  }
  return { layers, logits: a, probabilities: predictProba(a, scaling) };
}
