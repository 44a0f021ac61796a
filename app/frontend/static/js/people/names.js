// Whose pictures files are, by where they lie and what they are called.

const PICTURE = /\.(jpe?g|jfif|png|webp|bmp)$/iu;

/** Whether a file may be a picture; others that lie in a folder beside are left out without a word. */
export const isPicture = (file) => PICTURE.test(file.name) || /^image\/(jpeg|png|webp|bmp)$/u.test(file.type);

/** "Ana Novak 2.jpg" and "Ana Novak_0002.jpg" are Ana Novak's. */
export function nameOf(fileName) {
  const stem = fileName.replace(/\.[^.]*$/u, "");
  return stem.replace(/[\s_\-.]*\d+$/u, "").trim() || stem.trim();
}

/**
 * How many folders are around all the persons' folders: 1 where everything lies in folders of one folder, else 0. The rule is that of
 * imports (`app/enrolment/import_names.py`).
 */
export function foldersAround(paths) {
  const parts = paths.map((path) => path.split("/").filter(Boolean));
  if (parts.length === 0 || parts.some((one) => one.length < 3)) return 0;
  return new Set(parts.map(([first]) => first)).size === 1 ? 1 : 0;
}

/** Whose picture a file is: its first folder's behind `skip`; of one that lies in none, `loose`, or whoever the file is called after. */
export function personFor(path, skip, loose) {
  const parts = path.split("/").filter(Boolean).slice(skip);
  return parts.length > 1 ? parts[0] : loose || nameOf(parts[0]);
}

/** Files and where they lie, of what was dropped; goes into folders. */
export async function dropped(transfer) {
  // All of it at once: after the first wait the browser forgets what was dropped.
  const entries = [...transfer.items].filter((item) => item.kind === "file")
    .map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const found = [];
  for (const entry of entries) await collect(entry, "", found);
  return found;
}

async function collect(entry, folder, found) {
  if (entry instanceof File) found.push({ file: entry, path: entry.name });
  else if (entry?.isFile) {
    const file = await new Promise((resolve, reject) => { entry.file(resolve, reject); });
    found.push({ file, path: folder + file.name });
  } else if (entry?.isDirectory) {
    const reader = entry.createReader();
    for (;;) {  // some hundred at a time
      const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
      if (some.length === 0) return;
      for (const inner of some) await collect(inner, `${folder}${entry.name}/`, found);
    }
  }
}
