"use strict";

// The data: each block of the page is JSON, gzipped, in base64, and is read when a view first needs it.
// Base64 has no "<", so no text of a model or a dataset stands in the page as markup.

const unpacked = new Map();

async function unpack(name) {
  const bytes = Uint8Array.from(atob(document.getElementById(`block-${name}`).textContent), (one) => one.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

/** The value of a block, by its name. */
function block(name) {
  if (!unpacked.has(name)) unpacked.set(name, unpack(name).then(JSON.parse));
  return unpacked.get(name);
}

/** Plotly, which runs when the first figure is drawn. The page's policy allows its script by its hash. */
async function plotly() {
  if (!window.Plotly) {
    const script = document.createElement("script");
    script.textContent = await unpack("plotly");
    document.head.append(script);
  }
  return window.Plotly;
}
