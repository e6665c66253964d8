"""Names of other libraries lead to ours, and a name that is not there behaves like one."""

import collections
import difflib

import pytest

import lossfns
from lossfns._catalogue import functions
from lossfns._synonyms import NAMES, _plain, named, similar


def test_every_name_of_the_table_is_public_and_no_synonym_is():
    public = functions()
    assert set(NAMES) <= set(public)
    for ours, others in NAMES.items():
        for other in others.split():
            assert other not in public, f"{other} is a function of its own"
            assert ours in named(other, public)


def test_a_line_of_the_table_says_nothing_twice():
    for ours, others in NAMES.items():
        counts = collections.Counter(map(_plain, others.split()))
        assert max(counts.values()) == 1, ours
        assert _plain(ours) not in counts, ours


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("cross_entropy", ["softmax_cross_entropy", "soft_cross_entropy"]),
        ("MSELoss", ["squared_error"]),
        ("l1_loss", ["absolute_error"]),
        ("smooth-l1", ["smooth_l1"]),
        ("KLDivLoss", ["kl_divergence"]),
        ("InfoNCE", ["info_nce"]),
        ("TripletMarginLoss", ["triplet"]),
        ("HuberLoss", ["huber"]),
        ("DPOTrainer", ["dpo"]),
        ("qwertz", []),
    ],
)
def test_names_of_torch_optax_and_trl(name, ours):
    assert named(name, functions()) == ours


def test_a_misspelt_name_is_near():
    assert similar("softmax_crossentropi", functions())[0] == "softmax_cross_entropy"
    assert difflib.get_close_matches("qqqqqq", functions()) == similar("qqqqqq", functions()) == []


def test_an_attribute_that_is_not_there_names_the_one_that_is_meant():
    message = "module 'lossfns' has no attribute 'cross_entropy'; did you mean softmax_cross_entropy or soft_cross"
    with pytest.raises(AttributeError, match=message):
        _ = lossfns.cross_entropy
    with pytest.raises(AttributeError, match="did you mean huber"):
        _ = lossfns.hubber
    with pytest.raises(AttributeError, match=r"no attribute 'qqqqqq'$"):
        _ = lossfns.qqqqqq
    assert not hasattr(lossfns, "cross_entropy")
    assert not hasattr(lossfns, "__path_of_nothing__")
    assert getattr(lossfns, "mse", None) is None
    assert not {"cross_entropy", "mse"} & set(dir(lossfns))
    with pytest.raises(ImportError, match="cannot import name 'cross_entropy'"):
        exec_import()


def exec_import():
    from lossfns import cross_entropy  # noqa: F401


def test_submodules_are_still_imported_by_name():
    from lossfns import testing

    assert testing.check_loss is not None
