// What happens in the browser alone: opening heads, zooming, setting and shading tokens, and saving pictures.
window.dash_clientside = window.dash_clientside || {};

(function () {
  const content = "/_page"; // where the server tells what is on a page
  let gridLoads = null;

  // As a link does: to another page without loading anew.
  function go(address) {
    history.pushState({}, "", address);
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
    window.scrollTo(0, 0);
  }

  function load(url) {
    return new Promise((done, failed) => {
      const script = Object.assign(document.createElement("script"), { src: url, onload: done, onerror: failed });
      document.body.appendChild(script);
    });
  }

  const none = () => window.dash_clientside.no_update;

  // Dash has every new figure fitted to its place twice over, and each fitting draws it anew, even where it fits.
  document.addEventListener("DOMContentLoaded", () => {
    if (!window.Plotly) return; // it comes later where another version is installed
    const resize = Plotly.Plots.resize;
    Plotly.Plots.resize = (figure) => {
      const { width, height } = figure._fullLayout || {};
      const place = getComputedStyle(figure);
      const fits = Math.abs(parseFloat(place.width) - width) < 1 && Math.abs(parseFloat(place.height) - height) < 1;
      return fits ? Promise.resolve(figure) : resize(figure);
    };
  });

  // The address of this page with fields changed; empty ones are left out.
  function search(changes) {
    const fields = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(changes)) {
      if (value) fields.set(name, value);
      else fields.delete(name);
    }
    return fields.size ? "?" + fields.toString() : "";
  }

  // The page of a head; key/value heads, experts and layers have none.
  function pageOf(head) {
    if (typeof head !== "string" || !head.includes(".H")) return none();
    const fields = new URLSearchParams();
    const report = new URLSearchParams(location.search).get("report");
    if (report) fields.set("report", report);
    fields.set("head", head);
    return "/head?" + fields.toString();
  }

  // The row of a head in the table is a way to its page, for the mouse and for the keyboard.
  for (const kind of ["click", "keydown"]) {
    document.addEventListener(kind, (event) => {
      const row = event.target instanceof Element && event.target.closest(".heads .ag-row[row-id]");
      const address = row && (kind === "click" || event.key === "Enter") && pageOf(row.getAttribute("row-id"));
      if (typeof address === "string" && !event.repeat && address !== location.pathname + location.search) go(address);
    });
  }

  function points(clicks) {
    return [clicks].flat().filter(Boolean).map((click) => click.points[0].customdata);
  }

  window.dash_clientside.probe = {
    // The content of a page, and its address in full. The first one is on its way since the document arrived.
    page: async function (path, search) {
      const here = () => location.pathname + location.search;
      let address = (path || "/") + (search || "");
      try {
        for (;;) {
          const answer = await fetch(content + address);
          if (!answer.ok) throw new Error("probe dashboard answered " + answer.status + "; its terminal says why");
          const told = await answer.json();
          if (here() === address) return told;
          if (location.pathname !== path) return [none(), none()]; // somebody has gone on to another page
          address = here(); // or to another view of this one
        }
      } catch (error) {
        const said = "It cannot be told what is on this page: " + error.message + ". Load it again once that is mended.";
        const props = { id: "problem", title: "No answer", color: "red", children: said };
        return [{ namespace: "dash_mantine_components", type: "Alert", props }, ""];
      }
    },

    openFromMap: function (clicks) {
      const asked = window.dash_clientside.callback_context.triggered_id;
      const found = points(clicks);
      return asked && found.length ? pageOf(found[0]) : none();
    },

    // The grid's script comes after the figures: it is large, and they are what is looked at first.
    grid: async function () {
      if (!window.dash_ag_grid) {
        await new Promise((later) => requestIdleCallback(later, { timeout: 2000 }));
        gridLoads = gridLoads || load(document.querySelector("meta[name=grid-script]").content);
        await gridLoads;
      }
      return true;
    },

    // The menu on narrow screens: the button opens and closes it, and another page closes it.
    menu: function (opened, path, navbar) {
      const shown = Boolean(opened) && window.dash_clientside.callback_context.triggered_id === "burger";
      return [{ ...navbar, collapsed: { mobile: !shown } }, shown];
    },

    // A page that was opened without saying of what says so once it is there; nothing is added to the history.
    settle: function (address) {
      if (address && address !== location.search) {
        history.replaceState(history.state, "", location.pathname + address + location.hash);
        window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
      }
      return none();
    },

    // The ranges that a drag or a double-click over the map asks for; a figure also reports its first size.
    zoom: function (moved) {
      if (!moved) return none();
      if (moved["xaxis.autorange"] || moved["yaxis.autorange"]) return search({ q: "", k: "" });
      const asked = {};
      for (const [axis, field] of [["yaxis", "q"], ["xaxis", "k"]]) {
        const ends = [moved[axis + ".range[0]"], moved[axis + ".range[1]"]];
        if (!ends.every(Number.isFinite)) continue;
        // Cells are centred on the first token of their block.
        const start = Math.max(0, Math.round(Math.min(...ends)));
        asked[field] = start + "-" + Math.max(1, Math.round(Math.max(...ends)) + 1);
      }
      return Object.keys(asked).length ? search(asked) : none();
    },

    tokens: function (words, rows, values) {
      const box = document.getElementById("tokens");
      if (box) draw(box, words || { first: 0, tokens: [] }, rows, values || { values: [] });
      return none();
    },

    // Save a figure as a picture where a menu entry asks for one.
    picture: function (clicks, figure) {
      const asked = window.dash_clientside.callback_context.triggered_id;
      if (!asked || !clicks.some((n) => n) || !["png", "svg"].includes(asked.as)) return none();
      const title = ((figure.layout || {}).title || {}).text || "figure";
      const filename = title.replace(/[^A-Za-z0-9._]+/g, "-").slice(0, 80) || "figure";
      Plotly.downloadImage(
        { data: figure.data, layout: figure.layout },
        { format: asked.as, filename: filename, width: 1100, height: 800 }
      );
      return none();
    },
  };

  const held = new WeakMap(); // box of tokens -> what it shows

  function draw(box, words, rows, values) {
    const before = held.get(box) || {};
    const bytes = before.rows === rows ? before.bytes : rows && Uint8Array.from(atob(rows), (c) => c.charCodeAt(0));
    held.set(box, { words, rows, bytes, values });
    if (before.words !== words) box.replaceChildren(...words.tokens.map((text, i) => token(text, words.first + i)));
    [...box.children].forEach((one, i) => {
      const said = (values.said || [])[i];
      const at = words.first + i;
      one.title = said ? `token ${at}: ${said}` : `token ${at}`;
      one.classList.toggle("chosen", values.chosen === at);
    });
    atRest(box);
  }

  function token(text, at) {
    const one = document.createElement("span");
    one.textContent = text; // as text: whatever a prompt says is no markup
    one.className = "token";
    one.tabIndex = 0;
    one.role = "listitem";
    one.dataset.at = at;
    return one;
  }

  function shade(one, part) {
    one.style.setProperty("--shade", Number.isFinite(part) ? part.toFixed(3) : "0");
  }

  // The shades that the server chose: each value between its low and its high.
  function atRest(box) {
    const { values, low, high } = (held.get(box) || {}).values || { values: [] };
    box.classList.remove("looking");
    [...box.children].forEach((one, i) => {
      one.classList.remove("source");
      const known = high > low && Number.isFinite(values[i]);
      shade(one, known ? Math.min(1, Math.max(0, (values[i] - low) / (high - low))) : 0);
    });
  }

  // Where one token looks: its row of the pattern.
  function looking(box, source) {
    const { words, bytes } = held.get(box) || {};
    if (!bytes) return;
    const all = [...box.children];
    const at = Number(source.dataset.at) - words.first;
    box.classList.add("looking");
    all.forEach((one, i) => {
      one.classList.toggle("source", i === at);
      shade(one, bytes[at * all.length + i] / 255);
    });
  }

  function choose(one) {
    [...one.parentElement.children].forEach((other) => other.classList.toggle("chosen", other === one));
    window.dash_clientside.set_props("token-chosen", { data: Number(one.dataset.at) });
  }

  function on(kinds, act) {
    for (const kind of kinds) {
      document.addEventListener(kind, (event) => {
        const one = event.target instanceof Element ? event.target.closest(".token[data-at]") : null;
        if (one) act(one, event);
      });
    }
  }

  on(["mouseover", "focusin"], (one) => looking(one.parentElement, one));
  on(["mouseout", "focusout"], (one) => atRest(one.parentElement));
  on(["click"], choose);
  on(["keydown"], (one, event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      choose(one);
    }
    const next = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    if (next && one[next]) one[next].focus();
  });
})();
