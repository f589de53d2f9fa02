// Two maps share one view: the upper one is cut at the divider, so that both sides lie over each other to the pixel.
"use strict";
(async () => {
  const $ = (id) => document.getElementById(id);
  const about = await (await fetch("scenes.json")).json();
  const FINER = 5; // steps beyond the finest tiles, where pixels are drawn larger
  let scene, place, view;

  const maps = ["below", "above"].map((target) => new ol.Map({
    target, controls: target === "below" ? ol.control.defaults.defaults({ attribution: false, rotate: false }) : [],
    interactions: target === "below" ? ol.interaction.defaults.defaults({ altShiftDragRotate: false, pinchRotate: false }) : [],
    layers: [], pixelRatio: 1,
  }));

  const option = (select, value, text) => select.append(new Option(text, value));
  const text = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : Number(value.toPrecision(3)).toString());

  const tiles = (number, opacity) => {
    const { origin, extent, resolutions, side } = scene;
    const tileGrid = new ol.tilegrid.TileGrid({ origin, extent, resolutions, tileSize: side });
    const composite = $("composite").value;
    const source = new ol.source.XYZ({
      tileGrid, projection: view.getProjection(), interpolate: false, wrapX: false, transition: 0,
      tileUrlFunction: ([z, x, y]) => `tile/${place}/${number}/${z}/${x}/${y}.png?composite=${composite}`,
    });
    source.on("tileloaderror", async (event) => {
      const answer = await fetch(event.tile.key).catch(() => null);
      $("remarks").textContent = answer && !answer.ok ? await answer.text() : "otbsr view has ended: start it again.";
    });
    return new ol.layer.Tile({ source, opacity });
  };

  const show = () => {
    const over = $("over").value, opacity = $("opacity").value / 100;
    for (const [map, chosen] of [[maps[0], $("left").value], [maps[1], $("right").value]]) {
      map.setLayers([tiles(Number(chosen), 1), ...(over === "" ? [] : [tiles(Number(over), opacity)])]);
    }
    const title = (chosen) => scene.layers[chosen].title;
    $("tag-left").textContent = title($("left").value);
    $("tag-right").textContent = title($("right").value);
    legend();
  };

  const legend = () => {
    const shown = new Set([$("left").value, $("right").value, $("over").value].filter((one) => one !== "").map(Number));
    $("legend").replaceChildren();
    for (const layer of [...shown].map((number) => scene.layers[number]).filter((one) => one.kind !== "image")) {
      const title = document.createElement("h2");
      title.textContent = layer.title;
      $("legend").append(title);
      const row = (name, ...parts) => { const div = document.createElement("div"); div.className = name; div.append(...parts); $("legend").append(div); return div; };
      if (layer.kind === "score") {
        row("ramp").style.background = `linear-gradient(to right, ${layer.colours.join(", ")})`;
        const ends = layer.span.map((value) => { const span = document.createElement("span"); span.textContent = text(value); return span; });
        row("ends", ...ends);
        if (layer.unit) row("", layer.unit);
      } else for (const one of layer.classes) {
        const box = document.createElement("i");
        box.style.background = one.colour;
        row("", box, one.name);
      }
    }
  };

  const whole = () => view.fit(scene.extent, { size: maps[0].getSize(), padding: [10, 10, 10, 10] });
  const choose = (number) => {
    place = number;
    scene = about.scenes[number];
    const projection = new ol.proj.Projection({ code: `otbsr:${number}`, units: scene.units === "degrees" ? "degrees" : "m", extent: scene.extent, global: false });
    const finest = scene.resolutions.at(-1);
    const finer = Array.from({ length: FINER }, (_, step) => finest / 2 ** (step + 1));
    const coarser = [4, 2].map((times) => scene.resolutions[0] * times);
    view = new ol.View({ projection, resolutions: [...coarser, ...scene.resolutions, ...finer], constrainResolution: true, enableRotation: false, showFullExtent: true });
    view.on("change:resolution", () => {
      const unit = { m: " m", degrees: "°", pixels: " pixels" }[scene.units];
      $("scale").textContent = `1 screen pixel = ${text(view.getResolution())}${unit}`;
    });
    maps.forEach((map) => map.setView(view));
    for (const side of ["left", "right", "over"]) $(side).replaceChildren();
    option($("over"), "", "nothing");
    scene.layers.forEach((layer, index) => {
      for (const side of ["left", "right"]) option($(side), index, layer.title);
      if (layer.kind !== "image") option($("over"), index, layer.title);
    });
    $("left").value = scene.left;
    $("right").value = scene.right;
    $("remarks").textContent = scene.remarks.join(" ");
    whole();
    show();
  };

  const swipe = (percent) => {
    const value = Math.min(100, Math.max(0, percent));
    $("stage").style.setProperty("--x", `${value}%`);
    $("divider").setAttribute("aria-valuenow", Math.round(value));
  };
  $("divider").addEventListener("pointerdown", (event) => $("divider").setPointerCapture(event.pointerId));
  $("divider").addEventListener("pointermove", (event) => {
    if (!$("divider").hasPointerCapture(event.pointerId)) return;
    const box = $("stage").getBoundingClientRect();
    swipe((100 * (event.clientX - box.left)) / box.width);
  });
  $("divider").addEventListener("keydown", (event) => {
    const now = Number($("divider").getAttribute("aria-valuenow"));
    const to = { ArrowLeft: now - 2, ArrowRight: now + 2, Home: 0, End: 100 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    swipe(to);
  });

  for (const id of ["left", "right", "over", "composite"]) $(id).addEventListener("change", show);
  $("opacity").addEventListener("input", () => maps.forEach((map) => map.getLayers().getArray().slice(1).forEach((layer) => layer.setOpacity($("opacity").value / 100))));
  $("whole").addEventListener("click", whole);
  $("native").addEventListener("click", () => view.setResolution(scene.resolutions.at(-1)));
  $("scene").addEventListener("change", () => choose(Number($("scene").value)));
  const coordinates = ([x, y]) => (scene.units === "pixels" ? `column ${Math.floor(x)}, row ${Math.floor(-y)}` : `${x.toFixed(scene.units === "m" ? 1 : 6)}, ${y.toFixed(scene.units === "m" ? 1 : 6)}`);
  maps[0].on("pointermove", (event) => { if (!event.dragging) $("place").textContent = coordinates(event.coordinate); });
  maps[0].on("singleclick", async (event) => {
    const [x, y] = event.coordinate;
    const answer = await fetch(`value/${place}?x=${x}&y=${y}`).catch(() => null);
    if (!answer || !answer.ok) return;
    const values = await answer.json();
    const told = values.map((one, index) => [scene.layers[index], Object.entries(one)]).filter(([, one]) => one.length);
    $("place").textContent = `${coordinates([x, y])}: ` + told.map(([layer, one]) => `${layer.title} ` + one.map(([role, value]) => {
      if (value === null) return "no data";
      if (layer.kind === "classes") return (layer.classes.find((known) => known.code === value) || { name: value }).name;
      return layer.kind === "image" ? `${role} ${value.toFixed(4)}` : text(value);
    }).join(" ")).join(" · ");
  });

  about.scenes.forEach((one, index) => option($("scene"), index, one.name));
  $("scene-choice").hidden = about.scenes.length < 2;
  choose(0);
  window.otbsrView = { maps, swipe, view: () => view, scene: () => scene };
})();
