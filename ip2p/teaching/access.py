"""What ipywidgets leave out for those who use no mouse, or do not see."""

from __future__ import annotations

import anywidget
import traitlets


class Access(anywidget.AnyWidget):
    """What ipywidgets leave out for a keyboard and a screen reader, for all that stands in the box of class
    ip2p-explorer: names of sliders and pictures, headers that can be opened without a mouse, a focus that can
    be seen. `pictures`: their names, in order; `progress`: that of a bar."""

    pictures = traitlets.List(traitlets.Unicode()).tag(sync=True)
    progress = traitlets.Unicode("denoising steps done").tag(sync=True)
    _esm = """
    function render({ model, el }) {
        const explorer = () => el.closest(".ip2p-explorer");
        function complete() {
            for (const slider of explorer().querySelectorAll(".widget-slider")) {
                const name = slider.querySelector(".widget-label").textContent;
                slider.querySelector(".noUi-handle")?.setAttribute("aria-label", name);
            }
            explorer().querySelectorAll("img.widget-image").forEach((image, i) => {
                image.alt = model.get("pictures")[i];
            });
            for (const bar of explorer().querySelectorAll("[role=progressbar]")) {
                bar.setAttribute("aria-label", model.get("progress"));
            }
            for (const header of explorer().querySelectorAll(".jupyter-widget-Collapse-header")) {
                header.tabIndex = 0;
                header.setAttribute("role", "button");
                header.onkeydown = (event) => {
                    if (event.key === "Enter" || event.key === " ") {
                        event.preventDefault();
                        event.stopPropagation();
                        header.click();
                    }
                };
            }
        }
        function begin() {
            if (!explorer()) return requestAnimationFrame(begin);
            new MutationObserver(complete).observe(explorer(), { childList: true, subtree: true });
            complete();
        }
        begin();
    }
    export default { render };
    """
    _css = """
    .ip2p-explorer.ip2p-explorer.ip2p-explorer :focus-visible {
        outline: 3px solid #0b57d0 !important;  /* the class thrice, to outweigh JupyterLab's own rules */
        outline-offset: 2px;
    }
    .ip2p-explorer img { max-width: 100%; height: auto; }
    """
