// Texts in the reader's language; `scripts/texts` finds them as the literal first arguments of `t` and `tn`.

const address = document.querySelector('meta[name="texts"]')?.content;
const { texts, plural } = address
  ? await fetch(address).then((answer) => answer.json()).catch(() => ({ texts: {}, plural: [] }))
  : { texts: {}, plural: [] };

function filled(text, values) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** The text in the reader's language, with `{name}` replaced by `values.name`. */
export function t(text, values = {}) {
  const found = texts[text];
  return filled(typeof found === "string" && found ? found : text, values);
}

/** One of two texts by a number, `{number}` in them: `tn("{number} picture", "{number} pictures", 3)`. */
export function tn(one, many, number, values = {}) {
  const shown = { number: new Intl.NumberFormat(locale()).format(number), ...values };
  const forms = texts[one];
  if (forms && typeof forms === "object") {
    const index = plural[number < 200 ? number : 100 + (number % 100)] ?? 0;
    if (forms[index]) return filled(forms[index], shown);
  }
  return filled(number === 1 ? one : many, shown);
}

/** How numbers and times are written: the reader's own way, whatever language the texts are in. */
export function locale() {
  return navigator.languages?.length ? [...navigator.languages] : undefined;
}
