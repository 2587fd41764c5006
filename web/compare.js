// Before and after, to be slid with the mouse, where ComfyUI draws nodes on its canvas: there its own Compare Images node,
// with which DINOTile's templates end, stays empty ("Node 2.0 only"). Where nodes are elements of the page it is left alone.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const MARGIN = 10; // px

// What the page keeps of a node's last run: undo and other tabs make the node anew, and one in a closed subgraph is told nothing.
function filesOf(node) {
  const told = app.nodeOutputs[node.graph.isRootGraph === false ? `${node.graph.id}:${node.id}` : node.id];
  const files = [told?.a_images?.[0], told?.b_images?.[0]];
  return files.every(Boolean) ? files : [];
}

async function loaded(file) {
  const picture = new Image();
  picture.src = api.apiURL(`/view?${new URLSearchParams(file)}`);
  await picture.decode();
  return picture;
}

// Where the pictures lie: [left, top, width, height] from the node's only widget on, in the shape of the second.
function place(node, picture) {
  const top = node.widgets[0].last_y;
  const room = [node.size[0] - 2 * MARGIN, node.size[1] - top - MARGIN];
  const scale = Math.min(room[0] / picture.naturalWidth, room[1] / picture.naturalHeight);
  const size = [picture.naturalWidth * scale, picture.naturalHeight * scale];
  return [MARGIN + (room[0] - size[0]) / 2, top, ...size];
}

// mouse: from the node's left edge in px, or null where it has not been there.
function draw(context, node, [before, after], mouse) {
  const [left, top, width, height] = place(node, after);
  if (width <= 0 || height <= 0) return;
  const share = mouse === null ? 0.5 : Math.min(1, Math.max(0, (mouse - left) / width));
  context.drawImage(after, left, top, width, height);
  const [seen, edge] = [before.naturalWidth * share, left + width * share];
  if (seen >= 1) context.drawImage(before, 0, 0, seen, before.naturalHeight, left, top, width * share, height);
  context.fillStyle = "white";
  context.fillRect(edge - 1, top, 2, height);
}

// `method` of a node, after which `more` is called with the same.
function extend(node, method, more) {
  const before = node[method];
  node[method] = function (...given) {
    const answer = before?.apply(this, given);
    more(...given);
    return answer;
  };
}

app.registerExtension({
  name: "DINOTile.Compare",
  nodeCreated(node) {
    if (node.comfyClass !== "ImageCompare" || !node.widgets?.length) return;
    node.widgets[0].drawWidget = () => {}; // it would say that nothing is to be seen here
    let [asked, pictures, mouse] = ["", [], null];
    async function renew() {
      const files = filesOf(node);
      const names = JSON.stringify(files);
      if (names === asked) return;
      asked = names;
      const found = await Promise.all(files.map(loaded)).catch(() => []); // ComfyUI may have emptied its folder of them
      if (names !== asked) return; // others were asked for meanwhile
      pictures = found;
      node.setDirtyCanvas(true, true);
    }
    extend(node, "onExecuted", () => node.setDirtyCanvas(true, true));
    extend(node, "onDrawForeground", (context) => {
      if (node.flags.collapsed || globalThis.LiteGraph.vueNodesMode) return;
      renew();
      if (pictures.length) draw(context, node, pictures, mouse);
    });
    extend(node, "onMouseMove", (_, [x]) => {
      mouse = x;
      node.setDirtyCanvas(true, false);
    });
  },
});
