// Writes the bundle and the licences of all that is in it to the dashboard's assets.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const about = (folder) => JSON.parse(readFileSync(`${folder}/package.json`));
const { version } = about("node_modules/plotly.js");
const target = `../probe_app/assets/plotly-figures-${version}`;

const { metafile } = await build({
  entryPoints: ["figures.cjs"],
  outfile: `${target}.min.js`,
  bundle: true,
  minify: true,
  metafile: true,
  target: "es2020",
  format: "iife",
  globalName: "Plotly",
  define: { global: "window", "define.amd": "false" },
  loader: { ".css": "empty" },
  banner: { js: `/*! plotly.js v${version} with scatter, heatmap and bar: MIT License, © Plotly Technologies Inc. */` },
});

const parts = Object.entries(Object.values(metafile.outputs)[0].inputs).filter(([, part]) => part.bytesInOutput);
const folders = new Set(parts.flatMap(([path]) => path.match(/^.*node_modules\/(@[^/]+\/)?[^/]+/)?.[0] ?? []));
const licences = [...folders].sort().map((folder) => {
  const { name, version, license } = about(folder);
  const file = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
  return `${name} ${version} (${license})\n\n${file ? readFileSync(`${folder}/${file}`, "utf8").trim() : ""}`.trim();
});
writeFileSync(`${target}.LICENSE.txt`, licences.join(`\n\n${"-".repeat(80)}\n\n`) + "\n");
