// What happens in the browser alone: shading tokens while one is hovered or focused, and saving pictures.
window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.probe = {
  // Save a figure as a picture where a menu entry asks for one.
  picture: function (clicks, figure) {
    const asked = window.dash_clientside.callback_context.triggered_id;
    if (!asked || !clicks.some((n) => n) || !["png", "svg"].includes(asked.as)) {
      return window.dash_clientside.no_update;
    }
    const title = ((figure.layout || {}).title || {}).text || "figure";
    const filename = title.replace(/[^A-Za-z0-9._]+/g, "-").slice(0, 80) || "figure";
    Plotly.downloadImage(
      { data: figure.data, layout: figure.layout },
      { format: asked.as, filename: filename, width: 1100, height: 800 }
    );
    return window.dash_clientside.no_update;
  },
};

(function () {
  const cache = new WeakMap();

  function rowsOf(box) {
    if (!box.dataset.rows) return null;
    const known = cache.get(box);
    if (known && known.text === box.dataset.rows) return known.bytes;
    const bytes = Uint8Array.from(atob(box.dataset.rows), (c) => c.charCodeAt(0));
    cache.set(box, { text: box.dataset.rows, bytes: bytes });
    return bytes;
  }

  function shade(token, part) {
    token.style.setProperty("--shade", Number.isFinite(part) ? part.toFixed(3) : "0");
  }

  // The shades that the server chose: each value between its low and its high; probabilities where it says neither.
  function atRest(box) {
    const tokens = [...box.children];
    const values = tokens.map((t) => (t.dataset.value === "" ? NaN : Number(t.dataset.value)));
    const low = Number(box.dataset.low ?? 0);
    const high = Number(box.dataset.high ?? 1);
    box.classList.remove("looking");
    tokens.forEach((t, i) => {
      t.classList.remove("source");
      shade(t, high > low ? Math.min(1, Math.max(0, (values[i] - low) / (high - low))) : 0);
    });
  }

  // Where one token looks: its row of the pattern.
  function looking(box, token) {
    const rows = rowsOf(box);
    if (!rows) return;
    const tokens = [...box.children];
    const n = tokens.length;
    const at = Number(token.dataset.at) - Number(box.dataset.first);
    box.classList.add("looking");
    tokens.forEach((t, i) => {
      t.classList.toggle("source", i === at);
      shade(t, rows[at * n + i] / 255);
    });
  }

  function tokenOf(event) {
    return event.target instanceof Element ? event.target.closest(".token[data-at]") : null;
  }

  document.addEventListener("mouseover", (event) => {
    const token = tokenOf(event);
    if (token) looking(token.parentElement, token);
  });
  document.addEventListener("focusin", (event) => {
    const token = tokenOf(event);
    if (token) looking(token.parentElement, token);
  });
  for (const name of ["mouseout", "focusout"]) {
    document.addEventListener(name, (event) => {
      const token = tokenOf(event);
      if (token) atRest(token.parentElement);
    });
  }
  function choose(token) {
    window.dash_clientside.set_props("token-chosen", { data: Number(token.dataset.at) });
  }
  document.addEventListener("click", (event) => {
    const token = tokenOf(event);
    if (token) choose(token);
  });
  document.addEventListener("keydown", (event) => {
    const token = tokenOf(event);
    if (!token) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      choose(token);
    }
    const next = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    if (next && token[next]) token[next].focus();
  });
  // Tokens that arrive are shaded at once.
  new MutationObserver(() => {
    document.querySelectorAll(".tokens").forEach((box) => {
      if (!box.classList.contains("looking")) atRest(box);
    });
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
