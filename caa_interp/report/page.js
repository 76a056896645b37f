// Draws the figures when they are needed, and shows beside a map what was measured at the cell that is chosen.
(() => {
  const figures = [...document.querySelectorAll(".plotly-graph-div")];
  const waiting = new Set(figures);
  const draw = (place) => {
    if (waiting.delete(place)) {
      const {data, layout} = JSON.parse(place.nextElementSibling.textContent);
      place.ready = Plotly.newPlot(place, data, layout, {responsive: true, displaylogo: false});
      place.dispatchEvent(new Event("drawn"));
    }
    return place.ready;
  };
  // First what is near the window, then the others in idle time: a page of many figures opens at once.
  const near = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
    {rootMargin: "600px"});
  figures.forEach((place) => near.observe(place));
  // A machine that is busy with other things has no idle time.
  const whenIdle = (work) =>
    window.requestIdleCallback ? requestIdleCallback(work, {timeout: 500}) : setTimeout(work, 50);
  const drawNext = () => {
    const [next] = waiting;
    if (next) { draw(next); whenIdle(drawNext); }
  };
  addEventListener("load", () => whenIdle(drawNext));
  // Figures keep the width that they have on the screen; on paper they are made smaller as a whole. What is folded is
  // unfolded.
  const PAPER = 680, HALF = 330;
  const folded = [...document.querySelectorAll("details")].filter((one) => !one.querySelector("pre"));
  let open = [];
  addEventListener("beforeprint", () => {
    open = folded.map((one) => one.open);
    folded.forEach((one) => { one.open = true; });
    figures.forEach((place) => {
      draw(place);
      const wide = place.offsetWidth;
      if (wide) place.style.zoom = Math.min(1, (place.closest(".half") ? HALF : PAPER) / wide);
    });
  });
  addEventListener("afterprint", () => {
    folded.forEach((one, place) => { one.open = open[place]; });
    figures.forEach((place) => { place.style.zoom = ""; });
  });

  // Views. The address is the state: #<section>=<row>_<column>, the last one chosen at the end.
  const number = (label) => Number(String(label).replace("\u2212", "-"));
  const same = (labels, wanted) => Array.from(labels).find((label) => number(label) === number(wanted)) ?? wanted;
  const views = new Map([...document.querySelectorAll(".views")].map((place) => {
    const section = place.closest("section");
    return [section.querySelector("[id]").id, {
      ...JSON.parse(place.lastElementChild.textContent),
      section,
      map: section.querySelector(".plotly-graph-div"),
      figure: place.querySelector(".plotly-graph-div"),
      menus: [...place.querySelectorAll("select")],
      finding: place.querySelector("figcaption strong"),
      texts: place.querySelector("dl"),
    }];
  }));
  const state = () => new Map([...new URLSearchParams(location.hash.slice(1))].filter(([name]) => views.has(name)));

  const choose = (name, cell) => {
    const chosen = state();
    chosen.delete(name);
    chosen.set(name, cell.join("_"));
    location.hash = new URLSearchParams([...chosen]);
  };
  const element = (kind, text) => Object.assign(document.createElement(kind), {textContent: text});

  const show = (view, [row, column]) => {
    const {data, finding, cells} = view.rows[row];
    const before = view.shown;
    view.shown = [row, column];
    view.menus.forEach((menu, place) => { menu.value = view.shown[place]; });
    view.texts.replaceChildren(...cells[column].flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
    if (!before && String(view.shown) === String(view.start)) return; // the figures are drawn so
    draw(view.map).then(() => {
      const {data} = view.map;
      const map = data.find((trace) => trace.type === "heatmap");
      Object.assign(data[data.length - 1], {x: [same(map.x, column)], y: [same(map.y, row)]});
      return Plotly.redraw(view.map); // a restyle of x and y would forget the types of the axes
    });
    if (before?.[0] === row) return;
    view.finding.textContent = finding;
    view.figure.parentElement.ariaLabel = finding;
    draw(view.figure).then(() => Plotly.react(view.figure, data, view.figure.layout));
  };
  const follow = () => {
    const chosen = state();
    for (const [name, view] of views) {
      const [row, column] = (chosen.get(name) ?? "").split("_");
      const is = Object.hasOwn(view.rows, row) && Object.hasOwn(view.rows[row].cells, column);
      show(view, is ? [row, column] : view.start);
    }
    const section = views.get([...chosen.keys()].pop())?.section;
    const box = section?.getBoundingClientRect();
    if (box && (box.bottom < 0 || box.top > innerHeight)) section.scrollIntoView();
  };
  for (const [name, view] of views) {
    const labels = (point) => [same(Object.keys(view.rows), point.y), same(Object.keys(view.rows[view.start[0]].cells), point.x)];
    view.map.addEventListener("drawn", () => view.map.on("plotly_click", ({points}) => choose(name, labels(points[0]))));
    view.menus.forEach((menu) => menu.addEventListener("change", () => choose(name, view.menus.map((one) => one.value))));
  }
  addEventListener("hashchange", follow);
  follow();
})();
