"""Pictures, drawn by matplotlib, which nobody else imports.

Without pyplot, so that nothing is kept between two figures and no screen is looked for.
"""

from fcnet.plots.sheets import image_sheet, rate_curve

__all__ = ["image_sheet", "rate_curve"]
