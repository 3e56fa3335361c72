"""The figures of the lecture, image sheets and curves, drawn by matplotlib without pyplot."""
