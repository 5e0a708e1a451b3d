// The dialog that makes the address of an overlay, with a preview.

import { ROOT } from "./api.js";
import { copy, text } from "./dom.js";
import { DEFAULTS, query } from "./overlay.js";

const KINDS = ["interim", "final", "status"];
const $ = (id) => document.getElementById(id);

export class OverlayDialog {
  #access;
  #toast;
  #conversation;
  #token;
  #timer;

  constructor(access, toast) {
    this.#access = access;
    this.#toast = toast;
    const form = $("overlay-form");
    form.addEventListener("input", () => this.#changed());
    form.addEventListener("submit", () => $("preview").removeAttribute("src"));
    $("overlay-dialog").addEventListener("close", () => $("preview").removeAttribute("src"));
    $("overlay-copy").addEventListener("click", async () => {
      this.#toast((await copy($("overlay-url").value)) ? "Address copied" : "Copying is not allowed here");
    });
  }

  async show(conversation) {
    this.#conversation = conversation;
    this.#token = undefined;
    const form = $("overlay-form");
    for (const [name, value] of Object.entries(DEFAULTS)) {
      if (form.elements[name] !== undefined) form.elements[name].value = value;
    }
    text($("overlay-note"), "");
    $("overlay-dialog").showModal();
    if (this.#access.me.keys) {
      try {
        const kinds = KINDS.filter((kind) => this.#access.me.kinds.includes(kind));
        const { token, expires_at } = await this.#access.tokenFor(conversation, kinds);
        this.#token = token;
        const end = new Date(expires_at).toLocaleString();
        text($("overlay-note"), `Its token is valid until ${end}. For good, make a key with ` +
          `natterjack keys add --doors api --conversations ${conversation}, and put it after # in place of the token.`);
      } catch (error) {
        text($("overlay-note"), `No token could be made: ${error.message}. Put a key after #.`);
      }
    }
    this.#changed();
  }

  #changed() {
    const { elements } = $("overlay-form");
    const values = { only: [] };
    for (const name of ["fade", "lines", "size", "font", "position", "show"]) {
      values[name] = elements[name].value;
    }
    const path = `captions/${encodeURIComponent(this.#conversation)}`;
    const url = new URL(path + query(values), ROOT);
    // What is after `#` is not sent to a server, so it is in no log.
    if (this.#token !== undefined) url.hash = this.#token;
    $("overlay-url").value = url.href;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const preview = new URL(path + query({ ...values, size: Math.max(8, values.size / 2) }), ROOT);
      preview.hash = url.hash;
      if ($("overlay-dialog").open) $("preview").src = preview.href;
    }, 300);
  }
}
