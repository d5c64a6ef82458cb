"use strict";
// The page is whole without this: it sorts tables, and sorts and filters the clips. What is
// chosen stands in the address, behind #, so that a view can be kept and passed on.

for (const head of document.querySelectorAll("table.sortable thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") === "descending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0];
    const value = (row) => row.cells[head.cellIndex].dataset.value;
    const rows = [...body.rows].sort((a, b) => compare(value(a), value(b)));
    body.append(...(up ? rows : rows.reverse()));
  });
}

function compare(a, b) {
  const difference = Number(a) - Number(b);
  return Number.isNaN(difference) ? String(a).localeCompare(String(b)) : difference;
}

const controls = document.getElementById("controls");
if (controls) {
  const list = document.getElementById("clips");
  const groups = [...list.children];
  const clips = [...list.querySelectorAll("article")];
  const none = document.getElementById("none");
  controls.hidden = false;

  const arrange = () => {
    const { sort, machine, find } = controls.elements;
    const [key, way] = sort.value.split(" ");
    const sign = way === "down" ? -1 : 1;
    const order = (a, b) =>
      sign * compare(a.dataset[key], b.dataset[key]) || a.dataset.number - b.dataset.number;
    const sought = find.value.trim().toLowerCase();
    for (const clip of clips) {
      clip.hidden =
        (machine.value !== "" && clip.dataset.machine !== machine.value) ||
        !clip.dataset.text.toLowerCase().includes(sought);
    }
    for (const group of groups) {
      const own = clips.filter((clip) => group.contains(clip)).sort(order);
      group.append(...own);
      group.hidden = own.every((clip) => clip.hidden);
    }
    const first = (group) => group.querySelector("article:not([hidden])");
    const shown = groups.filter((group) => !group.hidden);
    list.append(...shown.sort((a, b) => order(first(a), first(b))));
    none.hidden = shown.length > 0;
  };

  const chosen = new URLSearchParams(location.hash.slice(1));
  for (const element of controls.elements) {
    if (chosen.has(element.name)) element.value = chosen.get(element.name);
    if (element.selectedIndex === -1) element.selectedIndex = 0;
  }
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", () => {
    const values = [...new FormData(controls)].filter(([, value]) => value !== "");
    history.replaceState(null, "", "#" + new URLSearchParams(values));
    arrange();
  });
  arrange();
}

// Two sounds at once can't be compared.
for (const player of document.querySelectorAll("audio")) {
  player.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) {
      if (other !== player) other.pause();
    }
  });
}
