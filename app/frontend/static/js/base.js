// What every page does.

import { announce, byId } from "./dom.js";
import { localise } from "./format.js";
import { t } from "./i18n.js";

const YEAR_S = 365 * 24 * 3600;

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

byId("theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  // A cookie, so that the next page has it before it is drawn.
  document.cookie = `facedex_theme=${theme}; path=/; max-age=${YEAR_S}; SameSite=Lax`;
  announce(theme === "dark" ? t("Dark colours") : t("Light colours"));
});

localise();
