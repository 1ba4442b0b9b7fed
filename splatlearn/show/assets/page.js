// What every page does: read a curve by pointer or arrow keys, and enlarge a picture.
for (const chart of document.querySelectorAll("[data-curve]")) {
  const points = JSON.parse(chart.dataset.curve), plot = chart.querySelector(".plot");
  const value = chart.querySelector("output"), cursor = chart.querySelector(".cursor"),
  last = value.textContent;
  const show = point => {
    cursor.style.cssText = `left:${100 * point[0]}%;top:${100 * point[1]}%;opacity:1`;
    value.textContent = `${point[3]} at ${point[2]}`;
  };
  const leave = () => { cursor.style.opacity = 0; value.textContent = last; at = points.length - 1; };
  let at = points.length - 1;
  plot.addEventListener("pointermove", event => {
    const box = plot.getBoundingClientRect(), across = (event.clientX - box.left) / box.width;
    let best = points[0];
    for (const point of points) if (Math.abs(point[0] - across) < Math.abs(best[0] - across)) best = point;
    show(best);
  });
  plot.addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -points.length, End: points.length }[event.key];
    if (!step) return;
    at = Math.min(points.length - 1, Math.max(0, at + step));
    show(points[at]);
    event.preventDefault();
  });
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("blur", leave);
}
const dialog = document.querySelector("dialog"), large = dialog.querySelector("img");
for (const image of document.querySelectorAll(".view img"))
  image.addEventListener("click", () => { large.src = image.src; large.alt = image.alt; dialog.showModal();
  });
dialog.addEventListener("click", () => dialog.close());
