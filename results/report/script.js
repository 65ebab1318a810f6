"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const figures = new Map();
  for (const box of document.querySelectorAll(".plot")) {
    const script = box.querySelector("script");
    figures.set(box, JSON.parse(script.textContent));
    script.remove();
  }

  // A colour is the name of a variable of the style sheet: one palette, and a scheme that changes changes all.
  // What the style sheet has no variable for is a text that begins alike.
  function coloured(value, style) {
    if (typeof value === "string") return value.startsWith("--") && style.getPropertyValue(value).trim() || value;
    if (Array.isArray(value)) return value.map((part) => coloured(part, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, coloured(part, style)]));
  }

  function layout(given, style) {
    const axis = { gridcolor: "--line", linecolor: "--faint", zeroline: false, automargin: true,
      title: { standoff: 8, font: { size: 12, color: "--soft" } }, tickfont: { size: 11, color: "--soft" } };
    const own = { ...given };
    for (const name of ["xaxis", "yaxis"]) {
      const { title, ...rest } = own[name] || {};
      own[name] = { ...axis, ...rest, title: { ...axis.title, text: title || "" } };
    }
    return coloured({
      autosize: true, margin: { l: 48, r: 12, t: 12, b: 40 }, hovermode: "closest",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "--ink" },
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", font: { color: "--soft" } },
      hoverlabel: { bgcolor: "--panel", bordercolor: "--faint", align: "left", font: { color: "--ink" } },
      dragmode: false, ...own,
    }, style);
  }

  const config = { responsive: true, displayModeBar: false, scrollZoom: false, doubleClick: false };

  function draw() {
    const style = getComputedStyle(document.documentElement);
    for (const [box, figure] of figures) {
      Plotly.react(box, coloured(figure.data, style), layout(figure.layout, style), config);
    }
  }

  draw();
  dark.addEventListener("change", draw);
})();
