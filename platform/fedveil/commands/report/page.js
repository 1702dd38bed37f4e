"use strict";
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const options = {
    displaylogo: false, displayModeBar: "hover", responsive: true, modeBarButtons: [["toImage", "zoom2d", "resetScale2d"]],
  };
  const plots = Object.keys(figures).map(function (key) {
    const place = document.getElementById("plot-" + key);
    Plotly.newPlot(place, figures[key].data, figures[key].layout, options);
    return { place: place, data: figures[key].data };
  });
  const boxes = Array.from(document.querySelectorAll("input[data-filter]"));
  const single = document.getElementById("single-runs");
  function apply() {
    const off = new Set(boxes.filter((box) => !box.checked).map((box) => Number(box.dataset.filter)));
    plots.forEach(function (plot) {
      const visible = plot.data.map(
        (trace) => !off.has(trace.meta.method) && (trace.meta.kind !== "run" || !single || single.checked));
      Plotly.restyle(plot.place, { visible: visible });
    });
    document.querySelectorAll("[data-method]").forEach(function (row) { row.hidden = off.has(Number(row.dataset.method)); });
  }
  boxes.forEach((box) => box.addEventListener("change", apply));
  if (single) single.addEventListener("change", apply);
  document.querySelectorAll("button[data-all]").forEach(function (button) {
    button.addEventListener("click", function () {
      boxes.forEach((box) => { box.checked = button.dataset.all === "yes"; });
      apply();
    });
  });
  let opened = [];
  window.addEventListener("beforeprint", function () {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    opened.forEach((fold) => { fold.open = true; });
  });
  window.addEventListener("afterprint", function () { opened.forEach((fold) => { fold.open = false; }); });
})();
