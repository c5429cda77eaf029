"""Paired differences of two models."""

import pytest

from jeppa.lab.evaluate import Evaluation, paired_differences

pytestmark = pytest.mark.usefixtures("one_thread")


def of(values: list[float | None], names: str = "abcd") -> Evaluation:
    return Evaluation({}, [{"name": name, "psnr": one} for name, one in zip(names, values, strict=False)], {})


def test_a_shift_that_all_pictures_share_is_sure():
    """Red when pictures are not paired: their own spread of 30 dB would then be in the interval."""
    found = paired_differences(of([10.5, 20.5, 40.5]), of([10.0, 20.0, 40.0]), ["psnr", "ssim"])
    assert list(found) == ["psnr"]
    assert (found["psnr"].mean, found["psnr"].lo, found["psnr"].hi) == pytest.approx((0.5, 0.5, 0.5))


def test_a_picture_that_one_has_no_figure_of_is_left_out():
    found = paired_differences(of([1.0, None, 3.0, 4.0]), of([0.0, 0.0, 0.0, None]), ["psnr"])
    assert (found["psnr"].mean, found["psnr"].count) == (2.0, 2)
    assert paired_differences(of([1.0, None]), of([0.0, 0.0]), ["psnr"]) == {}


def test_other_pictures_are_refused():
    with pytest.raises(ValueError, match="different pictures"):
        paired_differences(of([1.0, 2.0]), of([1.0, 2.0], "xy"), ["psnr"])
