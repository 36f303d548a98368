// a click, or a line that is shown while it is drawn; both are sent in pixels of the image
document.addEventListener("mousedown", (event) => {
  const picture = event.target.closest("#picture"), image = picture && picture.querySelector("img");
  if (!image || event.button !== 0 || !image.naturalWidth) return;
  event.preventDefault();
  picture.focus({preventScroll: true});
  const place = (e) => {
    const box = image.getBoundingClientRect();
    const right = (e.clientX - box.left) / box.width, down = (e.clientY - box.top) / box.height;
    return [right * image.naturalWidth, down * image.naturalHeight];
  };
  const start = place(event), svg = picture.querySelector("svg");
  const far = (e) => Math.hypot(e.clientX - event.clientX, e.clientY - event.clientY) > 6;
  const drawn = document.createElementNS("http://www.w3.org/2000/svg", "line");
  drawn.setAttribute("style", "stroke:#fff;stroke-width:2px;vector-effect:non-scaling-stroke");
  const move = (e) => {
    if (!far(e)) return;
    const end = place(e);
    ["x1", "y1", "x2", "y2"].forEach((name, i) => drawn.setAttribute(name, [...start, ...end][i]));
    svg.append(drawn);
  };
  const up = (e) => {
    drawn.remove();
    document.removeEventListener("mousemove", move);
    document.removeEventListener("mouseup", up);
    const detail = far(e) ? {from: start, to: place(e)} : {at: start};
    picture.dispatchEvent(new CustomEvent("ask", {detail}));
  };
  document.addEventListener("mousemove", move);
  document.addEventListener("mouseup", up);
});

// a file may be dropped anywhere on the page
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const input = document.querySelector("#upload input[type=file]");
  if (!input || !event.dataTransfer.files.length) return;
  input.files = event.dataTransfer.files;
  input.dispatchEvent(new Event("change", {bubbles: true}));
});
