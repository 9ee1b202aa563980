"""Live settings as a checkpoint keeps them: taken over, or refused by name."""

from __future__ import annotations

import pytest

from presets.layers import ConfigError, load
from presets.live import live_settings, with_settings


def test_an_edited_configs_live_settings_make_the_same_config_of_the_unedited_one():
    config, edited = load("tiny").config, load("tiny", None, ["decode.every=7", "stages.1.profile=freeze"]).config
    assert with_settings(config, live_settings(edited)) == edited != config


@pytest.mark.parametrize("settings, why", [([], "live: is no table"), ({"run.seed": 1}, "run.seed: is no setting of this run")])
def test_what_is_no_table_of_live_settings_is_refused(settings, why):
    with pytest.raises(ConfigError, match=why):
        with_settings(load("tiny").config, settings)
