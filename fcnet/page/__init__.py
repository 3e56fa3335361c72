"""Pages: one HTML file each, which opens anywhere, asks nothing of a network and says all without its script."""

from fcnet.page.charts import Chart, Series, histogram, line_chart, reliability
from fcnet.page.rendering import PageSection, render

__all__ = ["Chart", "PageSection", "Series", "histogram", "line_chart", "reliability", "render"]
