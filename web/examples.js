// The pictures that DINOTile's templates begin with. ComfyUI lists only what lies in its input folder, so a picture is put
// there, by the page's own upload, when a graph is opened that asks for it and the folder does not have it.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const EXAMPLES = ["dinotile_photo.jpg", "dinotile_shapes.png"];

async function upload(name) {
  const picture = await fetch(new URL(`examples/${name}`, import.meta.url));
  if (!picture.ok) throw new Error(`DINOTile: the example ${name} is not served (${picture.status}): install the pack anew`);
  const form = new FormData();
  form.append("image", await picture.blob(), name);
  const answer = await api.fetchApi("/upload/image", { method: "POST", body: form });
  if (!answer.ok) throw new Error(`DINOTile: the example ${name} could not be put among the inputs (${answer.status})`);
}

// By the host's list of inputs: to ask for a file that is not there would stand in the console as an error.
async function isThere(name) {
  const answer = await api.fetchApi("/object_info/LoadImage");
  const [kinds, options] = (await answer.json()).LoadImage.input.required.image;
  return (Array.isArray(kinds) ? kinds : options.options).includes(name);
}

app.registerExtension({
  name: "DINOTile.Examples",
  async beforeConfigureGraph(graph) {
    const asked = (graph.nodes ?? []).filter((node) => node.type === "LoadImage").map((node) => node.widgets_values?.[0]);
    let added = false;
    for (const name of EXAMPLES) {
      if (!asked.includes(name) || (await isThere(name))) continue;
      await upload(name);
      added = true;
    }
    if (added) await app.reloadNodeDefs();
  },
});
