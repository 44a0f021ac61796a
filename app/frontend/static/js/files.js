// Pictures that are dropped on a page, pasted into it, chosen or photographed.

import { byId } from "./dom.js";
import { bytes } from "./format.js";
import { t } from "./i18n.js";

const TYPES = new Set(["image/jpeg", "image/png", "image/webp", "image/bmp"]);
export const ACCEPTED = [...TYPES].join(",");

/** Why a file is not worth sending, in words; null where nothing speaks against it. */
export function whyRefused(file, max_bytes) {
  if (file.size === 0) return t("The file is empty.");
  if (file.type && !TYPES.has(file.type)) return t("This is no picture that is read here: JPEG, PNG, WebP and BMP are.");
  if (file.size > max_bytes) {
    return t("The picture has {size}; at most {most} are accepted.", { size: bytes(file.size), most: bytes(max_bytes) });
  }
  return null;
}

/**
 * Call `onFiles(files)` with whatever is dropped anywhere on the page (`zone` shows where to), pasted outside of a text field, or chosen
 * with the buttons in `data-opens="ID"`, which name a file input.
 */
export function takePictures(zone, onFiles) {
  let inside = 0;
  const isFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (!isFiles(event)) return;
    inside += 1;
    zone.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!isFiles(event)) return;
    inside -= 1;
    if (inside <= 0) zone.classList.remove("over");
  });
  document.addEventListener("dragover", (event) => { if (isFiles(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    inside = 0;
    zone.classList.remove("over");
    hand([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    hand(files);
  });
  for (const button of zone.querySelectorAll("[data-opens]")) {
    const input = byId(button.dataset.opens);
    button.addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      const files = [...input.files];
      input.value = "";  // so that the same file can be chosen again
      hand(files);
    });
  }
  function hand(files) { if (files.length) onFiles(files); }
}
