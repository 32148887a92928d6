"""One file a kind of plot: `draw(points, spec)` returns (figure, title, caption). Adding a file adds a kind."""
