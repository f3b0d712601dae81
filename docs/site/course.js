// A button that hides all code of a lesson, and scrolling parts that a keyboard reaches.
document.addEventListener("DOMContentLoaded", () => {
    const cells = document.querySelectorAll("div.cell_input");
    const title = document.querySelector("article h1");
    if (cells.length > 1 && title) {
        const button = document.createElement("button");
        button.className = "code-switch";
        button.type = "button";
        const show = (hidden) => {
            document.body.classList.toggle("without-code", hidden);
            button.setAttribute("aria-pressed", String(hidden));
            button.textContent = hidden ? "Show the code" : "Hide the code";
        };
        show(false);
        button.addEventListener("click", () =>
            show(!document.body.classList.contains("without-code")));
        title.after(button);
    }
    // A figure is drawn before the page has its width.
    const fit = new ResizeObserver((entries) => entries.forEach(({target}) => {
        const plot = target.querySelector(".js-plotly-plot");
        if (plot && window.Plotly) window.Plotly.Plots.resize(plot);
    }));
    document.querySelectorAll("div.figure").forEach((figure) => fit.observe(figure));
    const scrolled = "pre, .math-wrapper, .table-wrapper, div.cell_output, .figure, .toc-tree-container, .toc-scroll, .sidebar-scroll";
    for (const part of document.querySelectorAll(scrolled)) {
        if (part.scrollWidth > part.clientWidth || part.scrollHeight > part.clientHeight) {
            part.tabIndex = 0;
        }
    }
});
