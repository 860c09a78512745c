"""The table of families knows every backbone, and says what its model, pipeline and loader say."""

from __future__ import annotations

import diffusers
import pytest

from tuner.backbones import Backbone
from tuner.formats.families import FAMILIES


def test_every_backbone_has_its_record():
    """Without one, a run would end in files that nobody could write."""
    assert FAMILIES.keys() == Backbone.family.keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_record_is_true_of_diffusers(name):
    family, layout = FAMILIES[name], Backbone.read({"name": name, "model": "nobody/nothing-like-this"}).layout()
    pipeline = getattr(diffusers, family.pipeline)
    assert family.names.prefixes.keys() <= set(pipeline._lora_loadable_modules)
    assert set(family.names.prefixes) == set(layout.linears) & set(pipeline._lora_loadable_modules)
    assert family.denoiser in layout.linears
    assert family.half in ("float16", "bfloat16")
