// Light, dark, or as the system has it.

import { set } from "./dom.js";

const THEMES = ["system", "light", "dark"];
const STORED = "natterjack.theme";

function stored() {
  try {
    const found = localStorage.getItem(STORED);
    return THEMES.includes(found) ? found : "system";
  } catch {
    return "system";
  }
}

function apply(theme) {
  set(document.documentElement, "data-theme", theme === "system" ? undefined : theme);
}

/** Applies the theme that was chosen, and lets `button` choose the next one. */
export function startTheme(button) {
  let theme = stored();
  const show = () => {
    apply(theme);
    const name = theme === "system" ? "as the system" : theme;
    set(button, "aria-label", `Theme: ${name}`);
    set(button, "title", `Theme: ${name}`);
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try {
      localStorage.setItem(STORED, theme);
    } catch {
      // it holds until the page is loaded again
    }
    show();
  });
  show();
}
