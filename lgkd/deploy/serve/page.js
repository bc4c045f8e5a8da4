"use strict";

const LARGEST = 20000000;
const part = (id) => document.getElementById(id);
let chosen = null;
let number = 0;
let shown = [];

function say(text, wrong) {
  part("status").textContent = text;
  part("status").classList.toggle("wrong", Boolean(wrong));
}

function picture(id, blob) {
  const address = URL.createObjectURL(blob);
  shown.push(address);
  const image = part(id);
  part(id + "-part").hidden = false;
  image.onload = () => image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) < 256);
  // A format that the server reads and the browser does not, such as TIFF.
  image.onerror = () => { part(id + "-part").hidden = true; };
  image.src = address;
}

function cell(row, content, kind) {
  const made = row.insertCell();
  made.className = kind || "";
  made.append(content);
}

function show(file, answer) {
  shown.forEach((address) => URL.revokeObjectURL(address));
  shown = [];
  // Of several labels an image those above the threshold, perhaps none.
  part("best").textContent = answer.labels ? answer.labels.join(", ") || "no label" : answer.classes[0].class;
  part("named").textContent = answer.classes[0].class;
  part("classes").replaceChildren();
  for (const one of answer.classes) {
    const row = part("classes").insertRow();
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.append(document.createElement("div"));
    bar.firstChild.style.width = 100 * one.confidence + "%";
    cell(row, one.class);
    cell(row, bar);
    cell(row, (100 * one.confidence).toFixed(1) + " %", "number");
  }
  picture("image", file);
  part("overlay-part").hidden = !answer.overlay;
  if (answer.overlay) {
    const bytes = Uint8Array.from(atob(answer.overlay), (sign) => sign.charCodeAt(0));
    picture("overlay", new Blob([bytes], { type: "image/png" }));
  }
  part("result").hidden = false;
}

async function send(file) {
  if (!file) return;
  chosen = file;
  const mine = ++number;
  part("result").hidden = true;
  if (file.size > LARGEST) return say("The image is larger than 20 MB; choose a smaller one.", true);
  say("Classifying " + file.name + " ...");
  try {
    const query = part("explain").checked ? "?explain=true" : "";
    const response = await fetch("/predict" + query, { method: "POST", body: file });
    const answer = await response.json().catch(() => ({ error: "the server answered with code " + response.status }));
    if (mine !== number) return;
    if (!response.ok) return say(answer.error, true);
    show(file, answer);
    say(file.name);
  } catch (error) {
    if (mine === number) say("The server does not answer; is it still running?", true);
  }
}

part("file").addEventListener("change", (event) => send(event.target.files[0]));
part("explain").addEventListener("change", () => send(chosen));
part("form").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("paste", (event) => send(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => { event.preventDefault(); part("drop").classList.add("over"); });
document.addEventListener("dragleave", () => part("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  part("drop").classList.remove("over");
  send(event.dataTransfer.files[0]);
});

fetch("/about").then((response) => response.json()).then((about) => {
  document.title = about.student + " - lgkd serve";
  part("student").textContent = about.student;
  const names = about.classes.length > 12 ? about.classes.slice(0, 12).join(", ") + ", ..." : about.classes.join(", ");
  part("about").textContent =
    about.classes.length + " classes: " + names + ". Images are scaled to " + about.image_size.join(" x ") + " pixels.";
}).catch(() => say("The server does not answer; is it still running?", true));
