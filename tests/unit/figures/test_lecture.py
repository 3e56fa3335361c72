"""Rules of the lecture's figures: what their data are, and that they can be read."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from torch.testing import assert_close

from fcnet.figures import curves, formulas, lecture, trained
from fcnet.figures.style import DARK, LIGHT, LINE_STYLES, THEMES, Theme, figure_bytes, use_theme

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    from fcnet.figures.curves import Line

NAMES = [
    "sigmoid", "saturation", "activations", "losses", "links", "neuron", "network", "forward-pass", "samples",
    "weights", "between", "generalisation", "descent",
]  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trained.Digits]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FCNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield trained.Digits.load()


@pytest.fixture(scope="module")
def drawn(digits: trained.Digits) -> dict[str, Callable[[], Figure]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained.Digits, "load", lambda: digits)
        before = torch.get_rng_state(), torch.get_num_threads()
        drawings = lecture.lecture_figures()
        assert torch.equal(torch.get_rng_state(), before[0])
        assert torch.get_num_threads() == before[1]
    return drawings


def at(curve: Line, x: float) -> float:
    """The value at the grid point nearest to x."""
    return float(curve.y[int((curve.x - x).abs().argmin())])


# --- what is shown ----------------------------------------------------------------------------------------------


def test_sigmoids_tend_to_0_on_the_left_and_1_on_the_right_the_steeper_the_larger_c() -> None:
    shown = formulas.scaled_sigmoids()
    for curve in shown:
        assert float(curve.y[0]) < 0.05
        assert float(curve.y[-1]) > 0.95
        assert at(curve, 0.0) == 0.5
    assert all(at(steep, 1.0) > at(flat, 1.0) for steep, flat in itertools.pairwise(shown))
    assert_close(shown[1].y, 1 / (1 + (-2.0 * shown[1].x).exp()))


def test_the_derivative_is_under_its_bound_which_jumps_at_0_from_one_half_to_1() -> None:
    slope, bound = formulas.saturation()
    there = ~bound.y.isnan()
    assert bool((slope.y <= bound.y)[there].all())
    s = 1 / (1 + (-slope.x).exp())
    assert_close(slope.y, s * (1 - s))
    assert bound.dots == (curves.Dot(0.0, 0.5, filled=False), curves.Dot(0.0, 1.0, filled=True))
    assert at(bound, 2.0) == pytest.approx(math.exp(-2.0))
    assert at(bound, -2.0) == pytest.approx(1 / (1 + math.exp(2.0)))


SLOPES_AT_0 = {
    "sigmoid": (0.25, 0.25, 0.25),
    "ReLU": (0.0, 1.0, 1.0),  # the lecture's: 1 at 0
    "leaky ReLU, $a = 0.1$": (0.1, 0.1, 1.0),
    "ELU": (1.0, 1.0, 1.0),
    "GELU": (0.5, 0.5, 0.5),
    "GELU, tanh form": (0.5, 0.5, 0.5),
}
"""The derivative's limit from the left, its value, and its limit from the right."""


def test_derivatives_are_those_of_the_functions_and_break_where_the_kink_is() -> None:
    panels = formulas.activations()
    assert [name for name, *_ in panels] == list(SLOPES_AT_0)
    for name, function, slope in panels:
        left, here, right = SLOPES_AT_0[name]
        step = function.x.diff()
        inner = (step > 1e-3) & (step < 0.1)
        middle = (slope.y[1:] + slope.y[:-1]) / 2
        assert_close(middle[inner], (function.y.diff() / step)[inner], rtol=0.0, atol=2e-3)
        place = len(slope.x) // 2
        assert slope.x[place] == 0.0
        assert_close(slope.y[[place - 1, place + 1]], torch.tensor([left, right], dtype=torch.float64))
        assert not function.dots
        if left == right:
            assert not slope.dots
            assert at(slope, 0.0) == here
        else:
            assert bool(slope.y[place].isnan()), "a line would cross the jump"
            assert {(dot.y, dot.filled) for dot in slope.dots} == {(left, left == here), (right, right == here)}


def test_losses_are_the_margins_and_the_step_is_1_where_the_sign_is_not_right() -> None:
    log, hinge, quadratic, step = formulas.losses()
    assert_close(log.y, (-log.x).exp().log1p())
    assert_close(hinge.y, (1 - hinge.x).clamp(min=0))
    assert_close(quadratic.y, (1 - quadratic.x) ** 2)
    assert (at(step, -1.0), at(step, 1.0)) == (1.0, 0.0)
    assert set(step.dots) == {curves.Dot(0.0, 1.0, filled=True), curves.Dot(0.0, 0.0, filled=False)}


def test_every_link_rises_from_0_to_1_through_one_half() -> None:
    step, *links = formulas.links()
    assert {(dot.y, dot.filled) for dot in step.dots} == {(0.0, False), (0.5, True), (1.0, False)}
    for link in links:
        assert at(link, 0.0) == 0.5
        assert_close(link.y + link.y.flip(0), torch.ones_like(link.y))
        assert bool((link.y.diff() >= 0).all())


def test_the_forward_pass_is_of_an_image_that_the_network_gets_right(digits: trained.Digits) -> None:
    image, (first, second, probabilities), label = trained.forward_pass(digits)
    assert [len(first), len(second), len(probabilities)] == [32, 16, 10]
    assert float(torch.cat([first, second]).min()) >= 0.0
    assert float(probabilities.sum()) == pytest.approx(1.0)
    assert int(probabilities.argmax()) == label
    test = digits.store.test
    matches = ((test.pixels[:, 0] / 255 == image).flatten(1).all(1)).nonzero()
    assert label in test.labels[matches]


def test_samples_are_training_images_of_their_class(digits: trained.Digits) -> None:
    shown, train = trained.samples(digits), digits.store.train
    assert shown.shape == (10, 5, 8, 8)
    for label, images in enumerate(shown):
        own = train.pixels[train.labels == label][:, 0] / 255
        assert_close(images, own[:5])


def test_the_score_is_a_line_and_the_probability_its_sigmoid_from_one_class_to_the_other(
    digits: trained.Digits,
) -> None:
    shown = trained.interpolation(digits, ("3", "8"))
    places, scores, probabilities = shown["positions"], shown["scores"], shown["probabilities"]
    assert (float(places[0]), float(places[-1])) == (-1.0, 2.0)
    assert_close(torch.lerp(scores[0], scores[-1], (places + 1) / 3), scores, rtol=1e-4, atol=1e-4)
    assert_close(probabilities, torch.sigmoid(scores))
    assert probabilities[100] < 0.5 < probabilities[200]  # t = 0 and t = 1
    test = digits.store.test
    assert_close(shown["images"][2], test.pixels[test.labels == 3][0, 0] / 255)
    assert_close(shown["images"][4], test.pixels[test.labels == 8][0, 0] / 255)


def test_with_more_samples_test_risk_falls_training_risk_rises_and_the_gap_closes(
    drawn: dict[str, Callable[[], Figure]],
) -> None:
    _, training, test = drawn["generalisation"].args  # type: ignore[attr-defined]
    assert test[0] > test[-1]
    assert training[0] < training[-1]
    gaps = [t - r for r, t in zip(training, test, strict=True)]
    assert min(gaps) > 0.0
    assert gaps[-1] < 0.1 * gaps[0]


def test_every_descent_begins_at_log_10_and_goes_further_the_smaller_its_batches(
    drawn: dict[str, Callable[[], Figure]],
) -> None:
    shown, _ = drawn["descent"].args  # type: ignore[attr-defined]
    for curve in shown:
        assert float(curve.y[0]) == pytest.approx(math.log(10.0), abs=1e-5)
        assert (float(curve.x[0]), float(curve.x[-1])) == (0.0, 8.0)
    full, mini, stochastic = (float(curve.y[-1]) for curve in shown)
    assert full > mini > stochastic
    assert len(shown[0].x) == 9  # a step an epoch


# --- that it can be read ----------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """WCAG's relative luminance, from 0 to 1."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_letters_and_lines_stand_out_and_lines_differ_without_colour(theme: Theme) -> None:
    assert contrast(theme.foreground, theme.background) > 7.0
    assert min(contrast(colour, theme.background) for colour in (*theme.colors, theme.muted)) > 3.0
    assert min(contrast(*pair) for pair in itertools.combinations(theme.colors, 2)) > 1.25
    assert len(set(LINE_STYLES)) == len(theme.colors) == 4


def letters(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that is drawn, and where; a tick beyond the axis is made but not drawn."""
    found = {}
    draw = Text.draw

    def noting(self: Text, renderer: RendererBase, *args: Any, **kwargs: Any) -> None:
        if self.get_visible() and self.get_text().strip():
            found[self] = Text.get_window_extent(self, renderer)
        draw(self, renderer, *args, **kwargs)

    figure.draw_without_rendering()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noting)
        FigureCanvasAgg(figure).draw()
    return [(text.get_text(), box) for text, box in found.items()]


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize("name", NAMES)
def test_no_text_leaves_the_paper_or_lies_on_another(
    name: str, theme: Theme, drawn: dict[str, Callable[[], Figure]]
) -> None:
    with use_theme(theme):
        figure = drawn[name]()
        found = letters(figure)
    assert len(found) > 3
    page = figure.bbox
    for text, box in found:
        assert page.x0 <= box.x0, text
        assert box.x1 <= page.x1, text
        assert page.y0 <= box.y0, text
        assert box.y1 <= page.y1, text
    for (one, here), (other, there) in itertools.combinations(found, 2):
        assert not here.overlaps(there), f"{one!r} lies on {other!r}"


def test_no_two_lines_of_a_figure_have_one_stroke(drawn: dict[str, Callable[[], Figure]]) -> None:
    for name in ("sigmoid", "saturation", "activations", "losses", "links", "generalisation", "descent"):
        with use_theme(LIGHT):
            figure = drawn[name]()
            for axes in figure.axes:
                lines = [line for line in axes.lines if line.get_linewidth() > 1 and line.get_linestyle() != "None"]
                strokes = [line.get_linestyle() for line in lines]
                assert len(strokes) == len(set(strokes)) >= 2


def test_there_is_a_drawing_of_every_name(drawn: dict[str, Callable[[], Figure]]) -> None:
    assert list(drawn) == NAMES


def test_weights_are_shown_around_0_in_greys_that_rise(drawn: dict[str, Callable[[], Figure]]) -> None:
    with use_theme(DARK):
        figure = drawn["weights"]()
    (first, *others) = [image for axes in figure.axes[:10] for image in axes.images]
    assert len(others) == 9
    low, high = first.get_clim()
    assert low == -high
    assert all(image.get_clim() == (low, high) for image in others)
    assert float(drawn["weights"].args[0].abs().max()) == pytest.approx(high)  # type: ignore[attr-defined]
    colours = first.get_cmap()(torch.linspace(0, 1, 64).numpy())
    greys = torch.from_numpy(colours[:, :3]).double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    assert bool((greys.diff() > 0).all())


def test_a_theme_leaves_matplotlibs_own_settings_as_they_were_and_takes_none_of_them() -> None:
    before = dict(rcParams)
    curve = formulas.links()
    with use_theme(LIGHT):
        plain = figure_bytes(curves.links(curve))
    assert dict(rcParams) == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(rcParams, "font.size", 30.0)
        patch.setitem(rcParams, "svg.fonttype", "none")
        with use_theme(LIGHT):
            assert figure_bytes(curves.links(curve)) == plain
