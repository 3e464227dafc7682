"""A picture on which a box can be drawn: where an edit may change it."""

from __future__ import annotations

import anywidget
import traitlets


class RegionPicture(anywidget.AnyWidget):
    """A square picture, `value` as PNG, `size` px wide; `box` is what is drawn on it by the mouse or a
    finger, as shares of its sides: [left, top, right, bottom], or [] for none (a click takes it away).

    By keyboard: Enter draws a box in the middle, the arrow keys move it, with Shift they move its lower right
    corner, Escape takes it away."""

    value = traitlets.Bytes().tag(sync=True)
    box = traitlets.List(traitlets.Float()).tag(sync=True)
    size = traitlets.Int(320).tag(sync=True)
    _esm = """
    const STEP = 1 / 16;
    function render({ model, el }) {
        el.innerHTML = `<div class="ip2p-region" tabindex="0" role="application">
            <img class="widget-image" draggable="false"><div class="ip2p-box"></div></div>`;
        const frame = el.querySelector(".ip2p-region");
        const image = el.querySelector("img");
        const box = el.querySelector(".ip2p-box");
        frame.ariaLabel = "where it may change: Enter draws a box, arrow keys move it, Escape removes it";
        frame.style.width = `${model.get("size")}px`;
        let url = null;
        function show() {
            if (url) URL.revokeObjectURL(url);
            url = URL.createObjectURL(new Blob([model.get("value")], { type: "image/png" }));
            image.src = url;
        }
        function draw(b = model.get("box")) {
            box.hidden = b.length === 0;
            if (box.hidden) return;
            const [left, top, right, bottom] = b.map((share) => 100 * share);
            box.style.inset = `${top}% ${100 - right}% ${100 - bottom}% ${left}%`;
        }
        function set(b) {
            model.set("box", b);
            model.save_changes();
        }
        function place(event) {
            const r = frame.getBoundingClientRect();
            const inside = (x) => Math.min(1, Math.max(0, x));
            return [(event.clientX - r.left) / r.width, (event.clientY - r.top) / r.height].map(inside);
        }
        let start = null;
        const between = ([x, y]) => [Math.min(x, start[0]), Math.min(y, start[1]),
            Math.max(x, start[0]), Math.max(y, start[1])];
        const large = (b) => b[2] - b[0] > 0.02 && b[3] - b[1] > 0.02;
        frame.addEventListener("pointerdown", (event) => {
            start = place(event);
            frame.setPointerCapture(event.pointerId);
        });
        frame.addEventListener("pointermove", (event) => start && draw(between(place(event))));
        frame.addEventListener("pointerup", (event) => {
            if (!start) return;
            const drawn = between(place(event));
            start = null;
            set(large(drawn) ? drawn : []);
            draw();
        });
        frame.addEventListener("keydown", (event) => {
            const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP],
                ArrowDown: [0, STEP] };
            let b = [...model.get("box")];
            if (event.key === "Enter") b = [0.25, 0.25, 0.75, 0.75];
            else if (event.key === "Escape") b = [];
            else if (event.key in moves && b.length) {
                const [x, y] = moves[event.key];
                if (!event.shiftKey) b = [b[0] + x, b[1] + y, b[2], b[3]];
                b = [b[0], b[1], b[2] + x, b[3] + y];
                if (Math.min(...b) < -1e-6 || Math.max(...b) > 1 + 1e-6 || !large(b)) return;
            } else return;
            event.preventDefault();
            event.stopPropagation();
            set(b);
        });
        model.on("change:value", show);
        model.on("change:box", () => draw());
        show();
        draw();
    }
    export default { render };
    """
    _css = """
    .ip2p-region { position: relative; max-width: 100%; cursor: crosshair; touch-action: none; }
    .ip2p-region img { width: 100%; user-select: none; display: block; }
    .ip2p-box { position: absolute; border: 2px solid white; outline: 2px dashed #202124; }
    .ip2p-box { box-sizing: border-box; pointer-events: none; }
    """
