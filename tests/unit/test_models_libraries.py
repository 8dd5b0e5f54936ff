from __future__ import annotations

import subprocess
import sys

# Each in a process of its own: what is imported once stays.
BARE = """
import sys
from geounet.models.libraries import import_libraries
import_libraries()
assert not [name for name in sys.modules if name.startswith("torch._dynamo")], "the compiler was imported"
import segmentation_models_pytorch as smp, timm, torchvision, torch
torch.manual_seed(0)
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", BARE + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_compiler_is_not_imported_and_networks_run() -> None:
    run("""
network = smp.Unet("resnet18", encoder_weights=None).eval()
assert network(torch.rand(1, 3, 64, 64)).shape == (1, 1, 64, 64)
assert not [name for name in sys.modules if name.startswith("torch._dynamo")]
""")


def test_what_was_put_off_works_when_it_is_called() -> None:
    run("""
from torchvision.ops import roi_align
boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
assert roi_align(torch.ones(1, 3, 8, 8), boxes, 2).eq(1).all()
# Its methods carry the decorator.
network = timm.create_model("naflexvit_base_patch16_gap", depth=1, num_classes=3).eval()
picture = torch.rand(1, 3, 64, 64)
compiled = torch.compile(network, backend="eager")
assert torch.allclose(network(picture), compiled(picture), atol=1e-5)
import torch._dynamo.utils as utils
assert utils.is_compile_supported is not None and torch.compiler.disable.__module__ == "torch.compiler"
""")


def test_nothing_that_workers_import_brings_the_compiler_along() -> None:
    code = """
import sys
import geounet.models.predictor, geounet.predict.infer, geounet.predict.seal, geounet.training.loop
slow = ("torch._dynamo", "segmentation_models_pytorch", "timm", "torchvision")
found = [name for name in sys.modules if name.startswith(slow)]
assert not found, found
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_networks_of_our_own_are_made_ready_without_smp() -> None:
    code = """
import sys, torch
from geounet.models.prepare import prepare
from geounet.models.networks.blocks import two_convolutions
from geounet.models.upsample import learn_upsampled
network = two_convolutions(3, 4).eval()
learn_upsampled(network)
prepare(network, torch.float32, torch.rand(1, 3, 8, 8))
assert not [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
assert not [name for name in sys.modules if name.startswith(("segmentation_models_pytorch", "timm"))]
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_compiler_that_is_there_already_stays() -> None:
    run("""
import torch._dynamo.utils as before
import_libraries()
assert sys.modules["torch._dynamo.utils"] is before
""")


def test_encoders_of_timm_are_loaded_and_run_without_the_compiler() -> None:
    run("""
import numpy as np
from geounet.models.bundle import load_bundle
from geounet.models.predictor import Predictor
predictor = Predictor(load_bundle("aerial"), tile=64)
assert predictor.quantised(np.zeros((1, 3, 64, 64), np.float32)).shape == (1, 5, 64, 64)
assert not [name for name in sys.modules if name.startswith("torch._dynamo")]
""")


def test_garbage_is_collected_afterwards_as_before() -> None:
    run("""
import gc
from geounet.models.libraries import uncollected
assert gc.isenabled()
with uncollected():
    assert not gc.isenabled()
    with uncollected():
        pass
    assert not gc.isenabled()
assert gc.isenabled()
try:
    with uncollected():
        raise ImportError
except ImportError:
    assert gc.isenabled()
gc.disable()
with uncollected():
    pass
assert not gc.isenabled()
""")
