// Faces cut out of a picture as it is shown.

/**
 * A canvas with the face and some of what is around it.
 *
 * `size` is the answer's, of the picture as a viewer shows it, which is what an `<img>` draws as well; `margin` is a share of the box, on
 * each side; `square` widens the shorter side.
 */
export async function cut(image, size, box, { margin, square = false }) {
  await image.decode();
  let { x, y, w, h } = { x: box.x - margin * box.w, y: box.y - margin * box.h, w: box.w * (1 + 2 * margin), h: box.h * (1 + 2 * margin) };
  if (square) {
    const side = Math.max(w, h);
    [x, y, w, h] = [x - (side - w) / 2, y - (side - h) / 2, side, side];
  } else {
    const [right, bottom] = [Math.min(size.width, x + w), Math.min(size.height, y + h)];
    [x, y] = [Math.max(0, x), Math.max(0, y)];
    [w, h] = [right - x, bottom - y];
  }
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(w));
  canvas.height = Math.max(1, Math.round(h));
  const scale_x = image.naturalWidth / size.width;
  const scale_y = image.naturalHeight / size.height;
  canvas.getContext("2d").drawImage(image, x * scale_x, y * scale_y, w * scale_x, h * scale_y, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** The same as a file to send. */
export async function cutOut(image, size, box, options) {
  const canvas = await cut(image, size, box, options);
  const blob = await new Promise((resolve) => { canvas.toBlob(resolve, "image/jpeg", 0.95); });
  return new File([blob], "face.jpg", { type: "image/jpeg" });
}
