"""The lecture's figures, image grids and curves, drawn with matplotlib and without pyplot."""
