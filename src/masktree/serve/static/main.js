/** Puts the parts of the page together. */

import { announce, say } from "./announce.js";
import { ClassList } from "./class_list.js";
import { Corrections } from "./corrections.js";
import { ChainLine, DisplayControls, LoadingLine } from "./display_controls.js";
import { byId } from "./dom.js";
import { Edits } from "./edits.js";
import { ExportDialog } from "./export_dialog.js";
import { Gestures } from "./gestures.js";
import { ImageList, SegmentCard } from "./image_list.js";
import { Keys } from "./keys.js";
import { Prompt } from "./prompt.js";
import { Scene } from "./scene.js";
import { SelectionPanel } from "./selection_panel.js";
import { Sheets } from "./sheets.js";
import { startTheme } from "./theme.js";
import { ToolBar } from "./tool_bar.js";
import { Tools } from "./tools.js";
import { describe, TreeList } from "./tree_list.js";
import { Viewer } from "./viewer.js";

startTheme();
const scene = new Scene();
const viewer = new Viewer(byId("area"), scene);
const edits = new Edits(scene);
const corrections = new Corrections(scene, edits);
const prompt = new Prompt(scene, edits);
const tools = new Tools(scene, viewer, prompt, edits);
const gestures = new Gestures(viewer, tools, scene);
const controls = new DisplayControls(scene);
const images = new ImageList(scene);
const classList = new ClassList(scene, corrections);
const panel = new SelectionPanel(scene, corrections, tools, () => classList.open());
const exportDialog = new ExportDialog(scene, images);
const sheets = new Sheets();
const treeList = new TreeList(scene, (id) => {
  viewer.show(scene.tree.get(id).bbox);
  sheets.closeAll();
});
new SegmentCard(scene, images);
new ChainLine(scene);
new LoadingLine(scene);
new ToolBar(tools, prompt);
new Keys({ corrections, tools, controls, viewer, scene, prompt, images, exportDialog, classList, panel, gestures, sheets });

byId("undo").addEventListener("click", () => corrections.undo());
byId("redo").addEventListener("click", () => corrections.redo());
byId("export-button").addEventListener("click", () => exportDialog.open());
byId("zoom-in").addEventListener("click", () => viewer.zoom(1.25));
byId("zoom-out").addEventListener("click", () => viewer.zoom(0.8));
byId("zoom-fit").addEventListener("click", () => viewer.fit());

function drawHeader() {
  const { image, tree } = scene;
  byId("image-name").textContent = image ? image.name : "";
  byId("image-facts").textContent = image ? `${image.width} × ${image.height}${tree ? ` · ${tree.masks.length} masks` : ""}` : "";
  document.title = image ? `${image.name} – masktree` : "masktree";
  byId("undo").disabled = !tree?.canUndo && edits.queue.length === 0;
  byId("redo").disabled = !tree?.canRedo;
  byId("saved").dataset.state = edits.isLost ? "lost" : edits.queue.length ? "saving" : "saved";
  byId("saved").textContent = !tree ? "" : edits.isLost ? `${edits.queue.length} waiting` : edits.queue.length ? "Saving …" : "Saved";
}
for (const event of ["image", "tree"]) scene.addEventListener(event, drawHeader);
edits.addEventListener("state", drawHeader);

function describeSelection() {
  const { tree, selection, lastSelected } = scene;
  if (selection.size === 1) say(`Selected: ${describe(tree, tree.indices.get(lastSelected))}`);
  else if (selection.size > 1) say(`${selection.size} masks selected`);
}
scene.addEventListener("selection", describeSelection);
images.addEventListener("opened", () => sheets.open(""));

// For the benchmark and for questions asked in the browser's console
Object.assign(window, { masktree: { scene, viewer, edits, tools } });

try {
  await images.load();
  const wanted = location.hash.slice(1);
  await images.show(images.images.find((image) => image.id === wanted) ?? images.images.find((image) => image.status === "done") ?? images.images[0]);
} catch (error) {
  announce(error.message, "error");
}
