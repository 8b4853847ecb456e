"""How far to look, as the command line says it."""

import pytest

from disret.command_line import UserError
from disret.retrieve.settings import DEFAULTS, parse_settings


def test_one_parameter_varies():
    settings = parse_settings(["k_factor_rf=2.5", "nprobe=16,1,4,1"])
    assert [setting.parameters for setting in settings] == [
        {"k_factor_rf": 2.5, "nprobe": value} for value in (1, 4, 16)
    ]
    assert settings[0].label == "k_factor_rf 2.5, nprobe 1"
    assert [s.label for s in parse_settings(["nprobe=1048576"])] == ["nprobe 1048576"]
    assert parse_settings([]) == [DEFAULTS]


@pytest.mark.parametrize(
    "words, says",
    [
        (["efSearch"], "'' in 'efSearch' is not a positive number"),
        (["=3"], "'=3' is not NAME=VALUE"),
        (["nprobe=1", "nprobe=2"], "'nprobe=2' is not NAME=VALUE,VALUE… of another parameter"),
        (["nprobe=1,x"], "'x' in 'nprobe=1,x' is not a positive number"),
        (["nprobe=0"], "'0' in"),
        (["nprobe=-1"], "'-1' in"),
        (["nprobe=inf"], "'inf' in"),
        (["nprobe=nan"], "'nan' in"),
        (["nprobe=1,2", "k_factor_rf=1,2"], "one parameter may have several values"),
    ],
)
def test_what_is_no_setting(words, says):
    with pytest.raises(UserError) as error:
        parse_settings(words)
    assert says in str(error.value)
